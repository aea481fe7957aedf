"""The cubic schedule against hand-computed values of Zhu & Gupta's equation 1."""

import pytest

from gossamer.errors import SettingError
from gossamer.recipe.schedule import Cubic


def test_hand_computed_values():
    ramp = Cubic(begin=0.0, end=0.5, every=10, initial=0.0)
    # 100 steps: t0 = 0, n·Δt = 50; s_t = 0.8·(1 - (1 - t/50)³)
    assert ramp.strength(0, 100, 0.8) == 0.0
    assert ramp.strength(10, 100, 0.8) == pytest.approx(0.8 * (1 - 0.8**3))
    assert ramp.strength(40, 100, 0.8) == pytest.approx(0.8 * (1 - 0.2**3))
    assert ramp.strength(50, 100, 0.8) == 0.8
    assert ramp.strength(99, 100, 0.8) == 0.8


def test_strength_holds_between_changes():
    ramp = Cubic(begin=0.1, end=0.9, every=7, initial=0.2)
    values = [ramp.strength(step, 100, 0.9) for step in range(100)]
    assert values[:11] == [0.2] * 11
    assert values[90:] == [0.9] * 10
    assert values == sorted(values)
    changed = [step for step in range(1, 100) if values[step] != values[step - 1]]
    assert changed == [*range(17, 90, 7), 90]
    assert all(ramp.changes(step, 100) for step in changed)


def test_what_can_be_taken_back_is_asked_for_after_the_ramp_too():
    ramp = Cubic(begin=0.1, end=0.5, every=20)
    assert [step for step in range(100) if ramp.is_due(step, 100)] == [10, 30, 50, 70, 90]
    assert [step for step in range(100) if ramp.changes(step, 100)] == [10, 30, 50]


def test_a_ramp_to_the_very_end_still_reaches_the_final_strength():
    ramp = Cubic(end=1.0, every=1)
    assert ramp.strength(9, 10, 0.5) == 0.5
    assert Cubic(end=0.5).strength(0, 1, 0.5) == 0.5


def test_falling_strength_is_a_ramp_too():
    ramp = Cubic(end=1.0, every=1, initial=1.0)
    assert ramp.strength(0, 5, 0.5) == 1.0
    assert ramp.strength(4, 5, 0.5) == 0.5


@pytest.mark.parametrize("wrong", [{"begin": 0.5, "end": 0.5}, {"begin": 0.9, "end": 0.1}, {"every": 0}, {"end": 1.5}])
def test_impossible_ramps_are_refused(wrong: dict):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Cubic(**wrong)

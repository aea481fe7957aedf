"""Reports: figures, effects, sentences, tables, and the JSON round trip."""

import json
import math

import msgspec
import pytest
from rich.console import Console

from gossamer.report import (
    Agreed,
    Figure,
    Report,
    SiteState,
    Skipped,
    State,
    StepReport,
    amount,
    computed,
    effect,
    load,
    measured,
    save,
    sentences,
    show,
    step_sentences,
)


def site(size: int, density: float = 1.0, name: str = "fc.weight") -> SiteState:
    return SiteState(
        site=name,
        kind="linear",
        shape=(10, 10),
        density=measured(density, "share"),
        distinct=measured(100),
        bits=measured(size * 8 / 100, "bit"),
        bytes=measured(size, "B"),
    )


def state(file: int, accuracy: float, *sites: SiteState, latency: float | None = None, spread: float = 0) -> State:
    return State(
        sites=sites or (site(file),),
        metrics={"accuracy": measured(accuracy, "share")},
        weights_only=measured(file, "B"),
        parameters=measured(100),
        macs=computed(1000),
        latency=None if latency is None else measured(latency, "s"),
        spread=None if latency is None else measured(spread, "s"),
    )


def report(*steps: StepReport, start: State | None = None) -> Report:
    return Report(
        recipe="r",
        task="t",
        seed=0,
        metric="accuracy",
        direction="max",
        dense=computed(400, "B"),
        start=start or state(380, 0.92),
        steps=steps,
    )


def step(number: int, after: State, **more) -> StepReport:
    return StepReport(number=number, name=more.pop("name", "prune.magnitude"), after=after, **more)


def test_effect_subtracts_and_keeps_the_weaker_basis():
    change = effect(state(400, 0.92, latency=2e-3), state(100, 0.90, latency=1e-3))
    assert change.bytes == measured(-300, "B")
    assert change.metrics["accuracy"].value == pytest.approx(-0.02)
    assert change.macs == computed(0)
    assert change.latency == measured(-1e-3, "s")
    assert change.energy is None


def test_before_is_the_step_in_front():
    made = report(step(1, state(200, 0.91)), step(2, state(50, 0.9)))
    assert made.before(made.steps[0]) is made.start
    assert made.before(made.steps[1]) is made.steps[0].after
    assert made.end.weights_only.value == 50
    assert made.ratio == 8


def test_best_is_the_smallest_within_the_allowed_drop():
    made = report(step(1, state(200, 0.915)), step(2, state(50, 0.85)))
    assert made.best(0.01) == 1
    assert made.best(0.1) == 2
    assert made.best(0.0) == 0


def test_worse_follows_the_direction():
    made = Report(
        recipe="r",
        task="t",
        seed=0,
        metric="loss",
        direction="min",
        dense=computed(1, "B"),
        start=State(sites=(), metrics={"loss": measured(1.0)}, weights_only=measured(9, "B"), parameters=measured(1)),
    )
    after = State(sites=(), metrics={"loss": measured(1.5)}, weights_only=measured(9, "B"), parameters=measured(1))
    assert made.worse(made.start, after) == 0.5


def test_sentence_for_a_step_that_saves_nothing_because_all_was_skipped():
    made = report(step(1, state(380, 0.92), skipped=(Skipped("fc.weight", "too small"),)))
    said = step_sentences(made, made.steps[0])
    assert said[0] == "step 1 (prune.magnitude) saved 0 bytes: it left out every site (fc.weight: too small)."


def test_sentence_for_a_step_that_changes_no_site():
    made = report(step(1, state(380, 0.92), treated=("fc.weight",), name="share.kmeans"))
    assert step_sentences(made, made.steps[0]) == [
        "step 1 (share.kmeans) saved 0 bytes: every site is stored exactly as before."
    ]


def test_slower_within_the_spread_of_the_runs_is_not_said():
    start = state(380, 0.92, latency=20e-6, spread=1e-6)
    for spread, said in ((4e-6, False), (1e-6, True)):
        made = report(step(1, state(300, 0.92, latency=23e-6, spread=spread)), start=start)
        assert any("slower" in text for text in sentences(made)) == said


def test_a_file_that_grew_is_called_larger_and_what_the_energy_leaves_out_is_said():
    grown = msgspec.structs.replace(state(800, 0.92), uncounted=("Einsum",))
    said = sentences(report(step(1, grown)))
    assert any("800 B, 2.0 times larger" in text for text in said)
    assert any("leaves out operators without a rule: Einsum" in text for text in said)


def test_sentence_for_larger_worse_and_slower():
    start = state(380, 0.92, latency=1e-3)
    made = report(step(1, state(395, 0.90, site(390), latency=3e-3), treated=("fc.weight",)), start=start)
    said = step_sentences(made, made.steps[0])
    assert said == [
        "step 1 (prune.magnitude) made the file 15 B larger: fc.weight grew most, from 380 B to 390 B.",
        "step 1 (prune.magnitude) made accuracy worse on validation: 92.00 % before, 90.00 % after.",
        "step 1 (prune.magnitude) made it slower: 1 ms before, 3 ms after.",
    ]


def test_the_summary_speaks_of_the_file_that_is_handed_over():
    end = msgspec.structs.replace(state(100, 0.93), self_contained=measured(160, "B"))
    made = report(step(1, end, treated=("fc.weight",)))
    assert "a file of 100 B, 4.0 times smaller; " in sentences(made)[-1]
    whole = msgspec.structs.replace(made, ships="self-contained")
    assert "a file of 160 B, 2.5 times smaller (without its graph 100 B, 4.0 times smaller); " in sentences(whole)[-1]


def test_figures_that_are_not_finite_come_back(tmp_path):
    bad = msgspec.structs.replace(state(100, float("nan")), parameters=measured(float("-inf")))
    save(tmp_path / "r.json", report(step(1, bad)))
    again = load(tmp_path / "r.json").end
    assert math.isnan(again.metrics["accuracy"].value)
    assert again.parameters.value == float("-inf")


def test_a_good_step_needs_no_sentence_but_the_run_has_a_summary():
    made = report(step(1, state(100, 0.93), treated=("fc.weight",)))
    (said,) = sentences(made)
    assert said == (
        "400 B of dense fp32 became a file of 100 B, 4.0 times smaller; "
        "accuracy on validation went from 92.00 % to 93.00 %."
    )


def test_skipped_sites_are_grouped_by_reason():
    skips = tuple(Skipped(f"s{i}", "excluded") for i in range(5))
    made = report(step(1, state(100, 0.93), treated=("fc.weight",), skipped=skips))
    assert step_sentences(made, made.steps[0]) == ["step 1 (prune.magnitude) left out s0, s1, s2 and 2 more: excluded."]


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (measured(37_900, "B"), "37.9 kB"),
        (measured(999, "B"), "999 B"),
        (measured(2.5e6, "B"), "2.5 MB"),
        (measured(0.9163, "share"), "91.63 %"),
        (measured(1.5e-3, "s"), "1.5 ms"),
        (measured(12e-6, "s"), "12 µs"),
        (computed(3e-6, "J"), "3 µJ"),
        (computed(2_293_000), "2.293 M"),
        (measured(32), "32"),
        (measured(2.31, "bpc"), "2.31 bpc"),
    ],
)
def test_amounts_for_people(figure: Figure, text: str):
    assert amount(figure) == text


def test_json_round_trip_marks_every_number(tmp_path):
    made = report(step(1, state(100, 0.93), seconds=measured(1.5, "s")))
    path = tmp_path / "r.json"
    save(path, made)
    assert load(path) == made
    plain = json.loads(path.read_text())
    assert plain["effects"][0]["bytes"] == {"value": -280, "basis": "measured", "unit": "B"}
    assert plain["ratio"] == {"value": 4.0, "basis": "computed", "unit": ""}


def test_tables_show_states_changes_and_what_is_computed():
    made = report(step(1, state(100, 0.93, site(90, 0.1)), treated=("fc.weight",)))
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    with console.file:
        show(made, console)
        text = console.export_text()
    assert "100 B (-280 B)" in text
    assert "1000*" in text
    assert "100.00 % → 10.00 %" in text
    assert "4.0 times smaller" in text


def test_tables_list_sites_that_an_edit_replaced():
    after = state(100, 0.93, site(30, name="fc.0.weight"), site(30, name="fc.1.weight"))
    made = report(step(1, after, treated=("fc.weight",)))
    with open("/dev/null", "w") as sink:  # noqa: PTH123
        console = Console(width=200, record=True, file=sink)
        show(made, console)
        text = console.export_text()
    assert "380 B → -" in text
    assert "- → 30 B" in text


def agreed(name: str, steps: float, differing: float) -> Agreed:
    return Agreed(name, measured(steps, "step"), measured(differing, "share"), measured(9, "step"))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([("a", 0, 0.0), ("b", 0, 0.0)], "integer products read the same codes as the simulation at all 2 sites."),
        ([("a", 0, 0.0)], "integer products read the same codes as the simulation at a."),
        (
            [("a", 0, 0.0), ("b", 1, 0.09)],
            "integer products read within one step of the simulation at all 2 sites (9.00% of the values off at most).",
        ),
        (
            [("a", 2, 0.1), ("b", 1, 0.0), ("c", 3, 0.2), ("d", 2, 0.1), ("e", 9, 0.3)],
            "inputs differ from the simulation by more than one step at e by 9, c by 3, a by 2 and 1 more.",
        ),
    ],
)
def test_how_far_the_target_is_from_the_simulation_is_said(found, said):
    end = msgspec.structs.replace(state(100, 0.9), agreed=tuple(agreed(*one) for one in found))
    assert f"On the target {said}" in sentences(report(step(1, end)))


def test_why_the_target_was_not_compared_is_said():
    end = msgspec.structs.replace(state(100, 0.9), uncompared="a: read twice")
    expected = "What the target reads was not compared with the simulation: a: read twice."
    assert expected in sentences(report(step(1, end)))

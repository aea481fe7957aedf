"""Mixing in whole numbers against the real functions and against slow references."""

import numpy as np

from gossamer.coders.logistic import ONE, SQUASH, STRETCH, Counts, Mixer, bounded


def test_squash_is_the_logistic_curve():
    at = np.arange(-2047, 2048)
    assert np.abs(SQUASH / ONE - 1 / (1 + np.exp(-at / 256))).max() < 0.005
    assert (np.diff(SQUASH) >= 0).all()


def test_stretch_is_its_inverse():
    chances = np.arange(64, 4096 - 64)
    exact = 256 * np.log(chances / (4096 - chances))
    assert np.abs(STRETCH[chances] - exact).max() < 24
    assert (np.diff(STRETCH) >= 0).all()


def test_counts_by_hand():
    counts = Counts(2, 4)
    prior = np.array([ONE // 4, ONE // 4])
    assert counts.predict(np.array([0, 1]), prior).tolist() == [ONE // 4, ONE // 4]
    counts.see(np.array([0, 0, 1]), np.array([1, 1, 0]))
    # context 0: (2 + 2 * 1/4) / (2 + 2); context 1: (0 + 2 * 1/4) / (1 + 2)
    assert counts.predict(np.array([0, 1]), prior).tolist() == [ONE * 5 // 8, ONE // 6]
    counts.see(np.array([0, 0, 0]), np.array([0, 0, 1]))  # 5 events, 3 set: passes the limit, so 3 events, 1 set
    assert counts.predict(np.array([0]), prior[:1]).tolist() == [ONE * 3 // 10]


def test_mixer_agrees_with_a_slow_reference():
    rng = np.random.default_rng(0)
    fast, weights = Mixer((0.3, 0.3, 0.3), 4), [int(0.3 * ONE)] * 3
    for _ in range(20):
        guesses = [rng.integers(100, ONE - 100, 7) for _ in range(3)]
        bits = rng.integers(0, 2, 7)
        mixed = fast.mix(guesses)
        gradient = [0, 0, 0]
        for element in range(7):
            inputs = [int(STRETCH[int(guess[element]) >> 4]) for guess in guesses]
            at = sum(weight * value for weight, value in zip(weights, inputs, strict=True)) >> 16
            chance = int(min(max(SQUASH[min(max(at, -2047), 2047) + 2047], 16), ONE - 16))
            assert mixed[element] == chance
            for index in range(3):
                gradient[index] += inputs[index] * ((int(bits[element]) << 16) - chance)
        weights = [weight + part * 4 // (7 << 14) for weight, part in zip(weights, gradient, strict=True)]
        fast.see(bits)


def test_mixer_learns_whom_to_trust():
    rng = np.random.default_rng(1)
    mixer = Mixer((0.3, 0.3), 4)
    for _ in range(300):
        bits = rng.integers(0, 2, 32)
        good = np.where(bits, ONE * 3 // 4, ONE // 4)
        noise = rng.integers(ONE // 8, ONE * 7 // 8, 32)
        mixed = mixer.mix([good, noise])
        mixer.see(bits)
    assert (mixed[bits == 1] > 0.7 * ONE).all()
    assert (mixed[bits == 0] < 0.3 * ONE).all()


def test_bounded_is_clip():
    values = np.arange(-9, 9)
    assert np.array_equal(bounded(values, -3, 5), values.clip(-3, 5))

"""Round trips, golden bytes, overhead and robustness of every model on every coder."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer import coders
from gossamer.coders import adaptive, mixed, static
from gossamer.errors import CodingError

GOLDEN = Path(__file__).parent / "golden"
MODELS = ("static", "adaptive", "mixed", "outlined", "blended")
FITTED = ("outlined", "blended")  # what their writers choose hangs on floating point; readers do not
CODERS = ("ans", "range")


def sample(alphabet: int = 9, shape: tuple[int, int] = (40, 30)) -> np.ndarray:
    """A matrix with a frequent middle, made by a linear congruential generator: the same on every machine."""
    state, values = 12345, []
    for _ in range(shape[0] * shape[1]):
        state = (1103515245 * state + 12345) % (1 << 31)
        values.append(state >> 16)
    draws = np.array(values).reshape(shape)
    return np.where(draws % 10 < 7, alphabet // 2, draws // 10 % alphabet)


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("model", MODELS)
def test_golden_vectors(model, coder):
    golden = (GOLDEN / f"{model}-{coder}.bin").read_bytes()
    symbols = sample()
    if model not in FITTED:
        assert coders.encode(symbols, 9, model=model, coder=coder) == golden
    assert np.array_equal(coders.decode(golden, symbols.shape, 9, model=model, coder=coder), symbols.reshape(-1))


@settings(max_examples=40, deadline=None)
@given(
    alphabet=st.sampled_from([1, 2, 3, 17, 300]),
    shape=st.sampled_from([(1,), (7,), (200,), (1, 1), (1, 50), (50, 1), (6, 33), (5, 4, 3), (600,)]),
    peak=st.floats(0, 1),
    seed=st.integers(0, 1 << 16),
    model=st.sampled_from(MODELS),
    coder=st.sampled_from(CODERS),
)
def test_round_trip(alphabet, shape, peak, seed, model, coder):
    rng = np.random.default_rng(seed)
    symbols = np.where(rng.random(shape) < peak, int(rng.integers(alphabet)), rng.integers(0, alphabet, shape))
    data = coders.encode(symbols, alphabet, model=model, coder=coder)
    assert np.array_equal(coders.decode(data, shape, alphabet, model=model, coder=coder), symbols.reshape(-1))


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("model", ["static", "adaptive"])
def test_nothing_to_code(model, coder):
    data = coders.encode(np.zeros(0, np.int64), 5, model=model, coder=coder)
    assert coders.decode(data, (0,), 5, model=model, coder=coder).size == 0


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("alphabet", [2, 16, 32])
@pytest.mark.parametrize("size", [10_000, 100_000])
def test_static_overhead_over_the_counted_entropy_is_within_half_a_percent(alphabet, size, coder):
    """Payload from about 10 kB upward, the frequency table counted."""
    bits_each = np.log2(alphabet) * 0.8
    count = int(8 * size / bits_each)
    chances = np.random.default_rng(1).dirichlet(np.full(alphabet, 2.0))
    symbols = np.random.default_rng(2).choice(alphabet, count, p=chances)
    counts = np.bincount(symbols, minlength=alphabet)
    share = counts[counts > 0] / count
    entropy = -count * float(share @ np.log2(share)) / 8
    assert entropy > 0.8 * size
    for model in ("static", "adaptive"):
        assert len(coders.encode(symbols, alphabet, model=model, coder=coder)) <= 1.005 * entropy


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("alphabet", [2, 256])
def test_adaptive_overhead_over_its_models_entropy(alphabet, coder):
    """The model's entropy is the sum of -log2 of the chances it gave; a drifting source, so that it has to follow."""
    rng = np.random.default_rng(3)
    size = 90_000 if alphabet == 2 else 12_000
    drift = np.linspace(0.2, 0.8, size)
    symbols = rng.binomial(alphabet - 1, drift)
    _, bits = adaptive.choose(symbols, alphabet)
    assert bits / 8 > 10_000 * 0.7
    assert len(coders.encode(symbols, alphabet, model="adaptive", coder=coder)) <= 1.005 * bits / 8


def test_adaptive_follows_drift_that_static_misses():
    symbols = np.random.default_rng(4).binomial(15, np.linspace(0.05, 0.95, 40_000))
    assert len(coders.encode(symbols, 16, model="adaptive")) < 0.8 * len(coders.encode(symbols, 16, model="static"))


def test_adaptive_cost_agrees_with_a_slow_reference():
    """Count by count, in plain Python: blocks of 64, then an eighth of what was seen; chance (2 n + 1) / sum."""
    symbols = sample().reshape(-1)
    counts, bits, start = [0] * 9, 0.0, 0
    while start < symbols.size:
        stop = min(symbols.size, start + min(max(64, start // 8), 16384))
        total = sum(2 * count + 1 for count in counts)
        bits += sum(np.log2(total / (2 * counts[symbol] + 1)) for symbol in symbols[start:stop])
        for symbol in symbols[start:stop]:
            counts[symbol] += 1
        start = stop
    setting = 1 + 4 * 3  # gain 2, no fading
    parts = adaptive.parts(symbols, 9, setting)
    fast = sum(float((np.log2(f.sum()) - np.log2(f[s])).sum()) for s, f in parts)
    assert fast == pytest.approx(bits, rel=1e-12)
    assert adaptive.choose(symbols, 9)[1] <= bits + 1e-9


def test_mixed_finds_columns_rows_and_signs():
    """Dense columns, and signs shared by neighbouring columns: worth at least a fifth against a static model."""
    rng = np.random.default_rng(5)
    density = np.repeat(rng.choice([0.01, 0.5], 30), 4)
    sign = np.sign(rng.normal(size=(150, 30))).repeat(4, axis=1)
    symbols = np.where(rng.random((150, 120)) < density, 4 + sign * rng.integers(1, 5, (150, 120)), 4).astype(int)
    plain, found = (len(coders.encode(symbols, 9, model=model)) for model in ("static", "mixed"))
    assert found < 0.8 * plain


def test_estimates_are_close():
    for size in (100, 5000):
        symbols = sample(shape=(size, 1)).reshape(-1)
        for model in ("static", "adaptive"):
            actual = len(coders.encode(symbols, 9, model=model))
            assert abs(coders.estimate(symbols, 9, model) - actual) <= 4 + 0.002 * actual


@settings(max_examples=80, deadline=None)
@given(
    data=st.binary(max_size=200),
    alphabet=st.sampled_from([1, 2, 9, 300]),
    shape=st.sampled_from([(0,), (5,), (3, 4), (40, 2), (2, 40), (500,)]),
    model=st.sampled_from(MODELS),
    coder=st.sampled_from(CODERS),
)
def test_any_bytes_give_symbols_or_a_coding_error(data, alphabet, shape, model, coder):
    try:
        symbols = coders.decode(data, shape, alphabet, model=model, coder=coder)
    except CodingError:
        return
    assert symbols.shape == (np.prod(shape),)
    assert symbols.size == 0 or 0 <= symbols.min() <= symbols.max() < alphabet


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("cut", [0, 1, 3, 7])
def test_a_cut_stream_is_never_another_error(model, cut):
    data = coders.encode(sample(), 9, model=model)
    with suppress(CodingError):
        assert coders.decode(data[:cut], (40, 30), 9, model=model).size == 1200


def test_symbols_outside_the_alphabet_are_refused():
    with pytest.raises(CodingError, match="symbols must be 0 to 3, got 0 to 4"):
        coders.encode(np.arange(5), 4)
    with pytest.raises(CodingError, match="1 to 65536 symbols, got 0"):
        coders.encode(np.arange(0), 0)


def test_mixed_is_bounded():
    with pytest.raises(CodingError, match="1 to 1048576 elements"):
        coders.encode(np.zeros((1025, 1024), np.int8), 2, model="mixed")
    prefix = b"\x00\x00\x00\x02\x00"  # walk along the rows
    with pytest.raises(CodingError, match="at most 4096 steps, not 5000"):
        coders.decode(prefix, (5000, 2), 2, model="mixed")
    assert mixed.MOST_STEPS**2 > mixed.LARGEST
    assert static.bits(np.array([5, 5])) == pytest.approx(10 + 8 * 2)

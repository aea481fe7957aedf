"""Memory: copies share what nobody writes to, nothing outlives its subject, and results stay the same."""

import gc
import sys
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from gossamer import codings
from gossamer.errors import CodingError
from gossamer.methods.prune import Magnitude, ranking
from gossamer.methods.share import KMeans
from gossamer.model import Codebook, Plan, Subject, all_finite, apply, freeze, live_weight
from gossamer.model.copying import lazy_copy


def shared_subject() -> Subject:
    plain = Subject.of(nn.Sequential(nn.Linear(8, 6), nn.LSTM(6, 5)), torch.randn(3, 8))
    pruned = apply(plain, Magnitude(sparsity=0.5).plan(plain))
    return apply(pruned, KMeans(bits=2).plan(pruned))


def test_a_lazy_copy_is_a_copy():
    for original in (torch.arange(6.0), torch.arange(6.0)[2:], torch.from_numpy(np.arange(6.0)), torch.empty(0)):
        copy, wanted = lazy_copy(original), original.clone()
        copy.add_(1)
        assert torch.equal(original, wanted)
        other = lazy_copy(original)
        original.add_(1)
        assert torch.equal(other, wanted)


def test_copies_of_a_subject_do_not_change_each_other():
    one = shared_subject()
    two = one.copy()
    before = {name: live_weight(one, name).clone() for name in one.sites}
    with torch.no_grad():
        for tensor in two.model.state_dict().values():
            tensor.zero_()
    assert all(torch.equal(live_weight(one, name), before[name]) for name in before)
    assert not any(live_weight(two, name).any() for name in before)


def test_a_subject_is_gone_with_its_last_name():
    gc.collect()
    gc.disable()
    try:
        old = shared_subject()
        new, parameter = old.copy(), weakref.ref(next(old.model.parameters()))
        del old
        assert parameter() is None
        assert live_weight(new, "0.weight").shape == (6, 8)
    finally:
        gc.enable()


def test_frozen_weights_are_decoded_when_asked_for():
    subject = shared_subject()
    frozen = freeze(subject)
    for name in subject.sites:
        assert frozen.bare.get_parameter(name).untyped_storage().nbytes() <= 8
    wanted = {name: live_weight(subject, name) for name in subject.sites}
    assert all(torch.equal(frozen.model.get_parameter(name), values) for name, values in wanted.items())
    assert frozen.model is frozen.model


@pytest.mark.parametrize(("count", "dtype"), [(256, torch.uint8), (257, torch.int16), (32769, torch.int32)])
def test_codes_take_the_smallest_dtype(count, dtype):
    codes = torch.tensor([[0, count - 1], [count // 2, 1]])
    book = Codebook(codes, torch.arange(float(count)))
    assert book.codes.dtype == dtype
    subject = apply(Subject.of(nn.Linear(2, 2), torch.randn(1, 2)), Plan("t", {"weight": book}))
    assert torch.equal(live_weight(subject, "weight"), codes.float())
    assert next(iter(subject.constraints.values())).codebook.codes.dtype == dtype


@pytest.mark.parametrize("values", [[0.0, 0.0, 3.0, 1.0, 1.0, 2.0, 1.0, 7.5, 0.25], [0.0] * 9, [2.0] * 9])
def test_the_threshold_is_found_by_parts(monkeypatch, values):
    scores = np.array(values, np.float32)
    whole = [ranking.keep_largest([scores], share / 9)[0] for share in range(10)]
    monkeypatch.setattr(ranking, "_CHUNK", 4)
    for rank in range(9):
        assert ranking.ranked(scores, rank) == np.sort(scores)[rank]
    for share, wanted in enumerate(whole):
        np.testing.assert_array_equal(ranking.keep_largest([scores], share / 9)[0], wanted)


def test_large_sparse_arrays_are_proven_by_their_parts(monkeypatch):
    keep = np.random.default_rng(0).uniform(size=(20, 30)) < 0.1
    some, centers = np.arange(keep.sum(), dtype=np.uint8) % 3, np.array([1, 2, 4], np.float32)
    codes = codings.Codebook(codings.Dense(some), codings.Dense(centers))
    hint = codings.Sparse(codings.Dense(keep), codes)
    monkeypatch.setattr(sys.modules["gossamer.codings.encode"], "_SMALL", 16)
    assert codings.same_bits(codings.decode(codings.encode(hint)), codings.decode(hint))
    with pytest.raises(CodingError, match="support"):
        codings.encode(codings.Sparse(codings.Dense(~keep), codes), effort="fast")


def test_all_finite():
    assert all_finite(torch.zeros(3, 4).T)
    assert not all_finite(torch.tensor([1.0, torch.inf]))
    assert not all_finite(torch.tensor(torch.nan))

"""The ranking that all criteria share: scopes, patterns, which axis is the input, and what does not fit."""

import numpy as np
import pytest
import torch
from torch import nn

from gossamer.errors import SettingError
from gossamer.methods.prune import Magnitude
from gossamer.methods.prune.pattern import Block, Few, Free, parse
from gossamer.methods.prune.ranked import parts_of
from gossamer.methods.prune.ranking import keep_largest_rows
from gossamer.model import Subject, apply, live_weight


def one(weight: torch.Tensor) -> Subject:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(weight.clone())
    return Subject.of(layer, torch.zeros(1, weight.shape[1]))


def kept(subject: Subject, **settings) -> torch.Tensor:
    (name,) = subject.sites
    return live_weight(apply(subject, Magnitude(**settings).plan(subject)), name) != 0


def test_patterns_from_text():
    assert parse("unstructured") == Free()
    assert parse("2:4") == Few(2, 4)
    assert parse("1x8") == Block(1, 8)
    for text in ("4:4", "0:4", "5:4", "0x2", "2x", "block"):
        with pytest.raises(SettingError, match="wanted unstructured, N:M"):
            parse(text)


def test_rows_by_hand():
    weight = torch.tensor([[1.0, -2, 3, 4], [50, 60, 0, -80]])
    assert kept(one(weight), sparsity=0.5, scope="row").int().tolist() == [[0, 0, 1, 1], [0, 1, 0, 1]]
    assert kept(one(weight), sparsity=0.5, scope="layer").int().tolist() == [[0, 0, 0, 1], [1, 1, 0, 1]]


def test_two_of_four_by_hand():
    weight = torch.tensor([[1.0, -2, 3, 4, 9, 8, -7, 6], [5, 5, 5, 5, 0, 0, 0, 1]])
    wanted = [[0, 0, 1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0, 0, 1]]
    for scope in ("global", "layer", "row"):
        assert kept(one(weight), sparsity=0.5, scope=scope, pattern="2:4").int().tolist() == wanted


@pytest.mark.parametrize(("pattern", "n", "m"), [("1:2", 1, 2), ("2:4", 2, 4), ("4:8", 4, 8), ("1:3", 1, 3)])
def test_every_group_keeps_as_many_as_it_says(pattern, n, m):
    torch.manual_seed(0)
    subject = one(torch.randn(6, 24))
    keep = kept(subject, sparsity=1 - n / m, pattern=pattern)
    assert (keep.view(6, -1, m).sum(-1) == n).all()


def test_a_pattern_with_less_sparsity_ramps_up_to_it():
    torch.manual_seed(0)
    subject = one(torch.randn(8, 16))
    before = torch.ones(8, 16, dtype=torch.bool)
    for sparsity in (0.1, 0.25, 0.4, 0.5):
        keep = kept(subject, sparsity=sparsity, pattern="2:4")
        assert int((~keep).sum()) == round(sparsity * 128)
        assert (keep.view(8, -1, 4).sum(-1) >= 2).all()
        assert not (keep & ~before).any()
        before = keep


def test_blocks_by_hand():
    weight = torch.tensor([[1.0, 1, 9, 0.1], [1, 1, 0.1, 0.1], [2, 0, 3, 3], [2, 0, 3, 3]])
    assert kept(one(weight), sparsity=0.5, pattern="2x2").int().tolist() == [
        [0, 0, 1, 1],
        [0, 0, 1, 1],
        [0, 0, 1, 1],
        [0, 0, 1, 1],
    ]
    keep = kept(one(weight), sparsity=0.25, pattern="1x2", scope="layer")
    assert keep.int().tolist() == [[0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 1, 1], [1, 0, 1, 1]]


def test_rows_against_one_row_at_a_time():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, (7, 11)).astype(np.float32)
    keep = keep_largest_rows(scores, 0.6)
    for row, got in zip(scores, keep, strict=True):
        order = sorted(range(11), key=lambda i: (row[i], i))
        gone = {*order[:7], *np.flatnonzero(row == 0)}
        assert got.tolist() == [i not in gone for i in range(11)]


@pytest.mark.parametrize(
    ("layer", "x", "inputs"),
    [
        (nn.Linear(8, 4), (1, 8), 8),
        (nn.Conv2d(4, 6, 3), (1, 4, 5, 5), 36),
        (nn.Conv1d(4, 6, 3, groups=2), (1, 4, 5), 6),
        (nn.ConvTranspose2d(4, 6, 2), (1, 4, 5, 5), 16),
        (nn.ConvTranspose1d(4, 6, 2, groups=2), (1, 4, 5), 4),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_inputs_are_what_one_output_sums_over(layer, x, inputs):
    subject = Subject.of(layer, torch.zeros(x))
    parts = parts_of(subject, subject.sites["weight"])
    assert {part.inputs(tuple(layer.weight.shape)) for part in parts} == {inputs}
    # With one weight in two of each output's inputs left, every output has half its inputs.
    keep = kept(subject, sparsity=0.5, pattern="1:2")
    matrices = [part.matrix(keep) for part in parts]
    assert all((matrix.reshape(len(matrix), -1, 2).sum(-1) == 1).all() for matrix in matrices)


def test_an_embedding_is_read_as_its_transpose():
    subject = Subject.of(nn.Embedding(6, 4), torch.zeros(1, dtype=torch.int64))
    keep = kept(subject, sparsity=0.5, scope="row")
    assert (keep.sum(0) == 3).all()


def test_what_does_not_fit_is_skipped_with_the_reason():
    subject = Subject.of(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)), torch.zeros(1, 6))
    plan = Magnitude(sparsity=0.5, pattern="2:4").plan(subject)
    assert list(plan.constraints) == ["1.weight"]
    assert [(skip.site, skip.reason) for skip in plan.skipped] == [
        ("0.weight", "its 6 inputs are no multiple of 4, so it cannot have 2:4 along the inputs")
    ]
    (skip,) = Magnitude(sparsity=0.5, pattern="2x2").plan(subject).skipped
    assert skip.reason == "its 3 outputs are no multiple of 2, so it cannot have blocks of 2x2"


def test_bad_patterns():
    with pytest.raises(SettingError, match=r"Magnitude\.pattern"):
        Magnitude(sparsity=0.5, pattern="two")
    with pytest.raises(SettingError, match=r"Magnitude\.pattern: wanted .* '4:4'"):
        Magnitude(sparsity=0.5, pattern="4:4")
    with pytest.raises(SettingError, match=r"Magnitude\.sparsity: wanted at most 0\.5 with the pattern 2:4, got 0\.6"):
        Magnitude(sparsity=0.6, pattern="2:4")

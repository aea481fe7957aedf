"""Static grids for the inputs and hidden states of recurrent layers."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from awkward import checks
from awkward.networks import NETWORKS
from torch import nn

from gossamer.calibrate import calibrate
from gossamer.errors import EvidenceError
from gossamer.methods.prune import Units
from gossamer.methods.quantize import AdaRound, Brecq, Gptq, Mixed, PostTraining
from gossamer.methods.quantize.assignment import Table
from gossamer.model import Subject, apply, freeze, plain_copy
from gossamer.model.used_grids import used_grids
from gossamer.targets import arrays_of, fill, graph_of, lower_frozen, open_session, run_session, static_loop

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")
STATIC = PostTraining(states="static")


@pytest.fixture(autouse=True)
def small_layers_too(monkeypatch):
    monkeypatch.setattr(static_loop, "LEAST_STATIC", dict.fromkeys(static_loop.LEAST_STATIC, 5))


class Tagger(nn.Module):
    def __init__(self, kind, hidden=8, **options):
        super().__init__()
        self.rnn = getattr(nn, kind)(6, hidden, batch_first=True, **options)
        self.fc = nn.Linear(self.rnn(torch.zeros(1, 1, 6))[0].shape[-1], 3)

    def forward(self, x, first=None):
        return self.fc(self.rnn(x, first)[0])


def subject_of(kind="GRU", *more, **options):
    torch.manual_seed(0)
    model = Tagger(kind, **options).eval()
    x = torch.randn(4, 7, 6)
    return Subject.of(model, x, *more), [((x, *more), {}, None)]


def planned(subject, batches, method=STATIC):
    return method.plan(subject, calibrate(subject, batches, method.needs))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_every_matrix_of_a_layer_gets_a_grid(kind):
    subject, batches = subject_of(kind, num_layers=2, bidirectional=True)
    plan = planned(subject, batches)
    recurrent = {name for name in subject.sites if name.startswith("rnn.")}
    assert recurrent <= set(plan.activations)
    assert {plan.activations[name].bits for name in recurrent} == {8}
    assert not any(skip.site in recurrent for skip in plan.skipped)
    assert set(apply(subject, plan).activations) == set(plan.activations)
    plain = planned(subject, batches, PostTraining())
    assert not recurrent & set(plain.activations)


def test_ranges_hold_the_initial_state_and_every_state_but_the_last():
    first = torch.full((1, 4, 8), 1.5)
    subject, batches = subject_of("GRU", first)
    evidence = calibrate(subject, batches, {"range"})
    states = subject.model.rnn(*batches[0][0])[0][:, :-1].detach()
    low, high = evidence.ranges["rnn.weight_hh_l0"]
    assert high == 1.5
    np.testing.assert_allclose(low, min(0.0, float(states.min())), atol=1e-6)
    x = batches[0][0][0]
    assert evidence.ranges["rnn.weight_ih_l0"] == (float(x.min()), float(x.max()))


CELLS = PostTraining(states="static", cell_bits=16)


def test_ranges_of_cell_states_hold_the_first_and_all_that_are_made_within_the_sequences():
    torch.manual_seed(0)
    layer, x = nn.LSTM(6, 8), torch.randn(7, 3, 6)
    lengths = torch.tensor([7, 4, 2])
    first = (torch.zeros(1, 3, 8), torch.full((1, 3, 8), 2.0))

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = layer

        def forward(self, x):
            return self.rnn(nn.utils.rnn.pack_padded_sequence(x, lengths), first)[1][0]

    evidence = calibrate(Subject.of(Packed().eval(), x), [((x,), {}, None)], {"cell"})
    cells = [torch.tensor(2.0)]
    for row, length in enumerate(lengths):
        for end in range(1, int(length) + 1):
            state = tuple(part[:, row : row + 1].contiguous() for part in first)
            cells.append(layer(x[:end, row : row + 1], state)[1][1].detach())
    low, high = min(float(cell.min()) for cell in cells), max(float(cell.max()) for cell in cells)
    np.testing.assert_allclose(evidence.ranges["rnn.weight_hh_l0:cell"], (low, high), atol=1e-6)


def test_cell_states_get_a_grid_where_it_is_asked_for_and_go_with_their_layer():
    subject, batches = subject_of("LSTM", num_layers=2, bidirectional=True)
    plan = planned(subject, batches, CELLS)
    cells = {f"rnn.weight_hh_l{layer}{way}:cell" for layer in (0, 1) for way in ("", "_reverse")}
    assert {name for name in plan.activations if name.endswith(":cell")} == cells
    assert {(plan.activations[name].bits, plan.activations[name].signed) for name in cells} == {(16, True)}
    assert set(apply(subject, plan).activations) == set(plan.activations)
    half = {name: grid for name, grid in plan.activations.items() if name != "rnn.weight_ih_l1"}
    left = used_grids(subject, half)
    assert {name for name in left if name.endswith(":cell")} == {name for name in cells if "_l0" in name}
    other, batches = subject_of("GRU")
    assert not any(name.endswith(":cell") for name in planned(other, batches, CELLS).activations)


@pytest.mark.parametrize("bits", [8, pytest.param(16, marks=pytest.mark.slow)])
def test_the_target_rounds_cell_states_as_the_live_model_does(bits):
    first = torch.randn(2, 4, 8)
    subject, batches = subject_of("LSTM", (first, 3 * first), bidirectional=True)
    live = apply(subject, planned(subject, batches, PostTraining(states="static", cell_bits=bits)))
    frozen = freeze(live)
    lowered = lower_frozen(frozen, graph_of(frozen, batches[0][0]))
    assert set(lowered.integer) == set(subject.sites)
    assert not lowered.reasons
    feeds = arrays_of(lowered.proto, batches[0][0])
    found = next(iter(run_session(open_session(lowered.proto), feeds).values()))
    wanted = live.model(*batches[0][0]).detach().numpy()
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    plain = apply(subject, planned(subject, batches)).model(*batches[0][0]).detach().numpy()
    assert bool(abs(wanted - plain).max() > 1e-2) is (bits == 8), "the grid of 8 bits tells"


def test_grids_of_cell_states_that_no_lstm_has_are_left_and_it_is_said():
    subject, batches = subject_of("GRU")
    frozen = freeze(apply(subject, planned(subject, batches)))
    given = {
        name: {"scale": 0.1, "zero": 0, "bits": 8, "signed": False}
        for name in ("rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.weight_hh_l0:cell", "fc.weight:cell")
    }
    lowered = fill(graph_of(frozen, batches[0][0]), frozen.tensors, given, quantized=True)
    assert {"rnn.weight_ih_l0", "rnn.weight_hh_l0"} <= set(lowered.integer)
    said = {each.what for each in lowered.reasons if "so it is not rounded" in each.why}
    assert said == {"rnn.weight_hh_l0:cell", "fc.weight:cell"}


def test_cell_bits_beside_dynamic_states_do_nothing_and_it_is_said():
    subject, batches = subject_of("LSTM")
    method = PostTraining(cell_bits=16)
    assert method.needs == {"range"}
    plan = planned(subject, batches, method)
    assert not any(name.endswith(":cell") for name in plan.activations)
    assert "cell state beside it stays in float: its states are dynamic" in reasons(plan)["rnn.weight_hh_l0"]


def test_one_site_of_a_plan_takes_its_cell_state_along():
    subject, batches = subject_of("LSTM")
    alone = planned(subject, batches, CELLS).only("rnn.weight_hh_l0")
    assert set(alone.activations) == {"rnn.weight_hh_l0", "rnn.weight_hh_l0:cell"}


def test_a_cell_state_of_a_layer_in_floats_is_not_rounded_and_it_is_said(monkeypatch):
    subject, batches = subject_of("LSTM")
    live = apply(subject, planned(subject, batches, CELLS))
    frozen = freeze(live)
    monkeypatch.setattr(static_loop, "LEAST_STATIC", dict.fromkeys(static_loop.LEAST_STATIC, 99))
    lowered = lower_frozen(frozen, graph_of(frozen, batches[0][0]))
    assert [each.why for each in lowered.reasons if each.what == "rnn.weight_hh_l0:cell"] == [
        "no LSTM layer runs in integers there, on grids of its inputs and states, so it is not rounded"
    ]


def test_a_grid_covers_its_range():
    subject, batches = subject_of("GRU")
    method = PostTraining(states="static", input_range="minmax")
    evidence = calibrate(subject, batches, {"range"})
    grid = method.plan(subject, evidence).activations["rnn.weight_hh_l0"]
    low, high = evidence.ranges["rnn.weight_hh_l0"]
    np.testing.assert_allclose(float(grid.scale), (high - min(low, 0)) / 255, rtol=1e-5)


@pytest.mark.parametrize(
    "method",
    [
        Gptq(states="static"),
        AdaRound(states="static", iterations=2),
        Brecq(states="static", iterations=2, weigh="outputs"),
        Mixed(states="static", limit=1_000_000, widths=(4, 8), measure="curvature"),
    ],
    ids=lambda method: method.tag,
)
def test_methods_of_few_bits_put_states_on_the_same_grids(method):
    subject, batches = subject_of("GRU", num_layers=2)
    targets = torch.zeros(4, 7, 3)
    evidence = calibrate(subject, [(batches[0][0], {}, targets)], method.needs, loss=nn.functional.mse_loss)
    plan, plain = method.plan(subject, evidence), STATIC.plan(subject, evidence)
    recurrent = {name for name in subject.sites if name.startswith("rnn.")}
    assert recurrent <= plan.activations.keys()
    for name in recurrent:
        assert torch.equal(plan.activations[name].scale, plain.activations[name].scale)
        assert torch.equal(plan.activations[name].zero, plain.activations[name].zero)
    frozen = freeze(apply(subject, plan))
    lowered = lower_frozen(frozen, graph_of(frozen, subject.args, subject.kwargs))
    assert {"Scan", "Loop"} & {node.op_type for node in lowered.proto.graph.node}, "multiplied in integers"


def test_a_mixed_layer_with_a_matrix_beyond_8_bits_has_no_state_grids():
    subject, batches = subject_of("GRU", num_layers=2)
    evidence = calibrate(subject, batches, {"range"})
    plans = {8: STATIC.plan(subject, evidence), 16: PostTraining(weight_bits=16, inputs=False).plan(subject)}
    losses = {site: {8: 1.0, 16: 0.5} for site in plans[8].constraints}
    table = Table("quantize.mixed", subject, plans, losses, floats=True)
    widths = dict.fromkeys(plans[8].constraints, 8) | {"rnn.weight_hh_l1": 16}
    assert set(table.plan(widths).activations) == {"rnn.weight_ih_l0", "rnn.weight_hh_l0", "fc.weight"}


def test_hidden_units_are_cut_under_their_grids():
    subject, batches = subject_of("LSTM", num_layers=2)
    live = apply(subject, planned(subject, batches))
    method = Units(amount=0.4, criterion="l1", repair=False)
    cut = apply(live, method.plan(live, calibrate(live, batches, method.needs)))
    assert cut.model.rnn.hidden_size < 8
    assert set(cut.activations) == set(live.activations)
    x = batches[0][0][0]
    torch.testing.assert_close(cut.model(x), plain_copy(cut)(x), atol=0.02, rtol=0)


def reasons(plan):
    return {skip.site: skip.reason for skip in plan.skipped}


def test_a_layer_that_the_target_does_not_take_gets_none():
    subject, batches = subject_of("GRU", hidden=4)
    plan = planned(subject, batches)
    assert set(plan.activations) == {"fc.weight"}
    assert "float is faster below 5" in reasons(plan)["rnn.weight_hh_l0"]
    subject, batches = subject_of("LSTM", proj_size=5)
    assert "no integer operator" in reasons(planned(subject, batches))["rnn.weight_ih_l0"]


def test_directions_that_differ_in_their_zero_get_none():
    subject, batches = subject_of("GRU", bidirectional=True)
    affine = PostTraining(states="static", weight_codes="affine", weight_scales="tensor")
    plan = planned(subject, batches, affine)
    assert set(plan.activations) == {"fc.weight"}
    assert "both directions want one zero" in reasons(plan)["rnn.weight_hh_l0"]


def test_a_layer_that_is_only_half_chosen_gets_none():
    subject, batches = subject_of("GRU")
    plan = planned(subject, batches, PostTraining(states="static", exclude=("rnn.weight_ih_l0",)))
    assert set(plan.activations) == {"fc.weight"}
    assert "rnn.weight_ih_l0: is on no grid" in reasons(plan)["rnn.weight_hh_l0"]
    assert "rnn.weight_ih_l0" not in reasons(plan)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"weight_bits": 16}, "16 bits"),
        ({"weight_scales": 2}, "after every group"),
        ({"weight_codes": "affine", "weight_bits": 8}, "a zero of its own"),
        ({"input_bits": 6}, "input_bits is 6"),
    ],
)
def test_weights_that_the_target_does_not_multiply_have_no_grids_beside_them(settings, why):
    subject, batches = subject_of("GRU")
    plan = planned(subject, batches, PostTraining(states="static", **settings))
    assert not any(name.startswith("rnn") for name in plan.activations)
    assert why in reasons(plan)["rnn.weight_hh_l0"]


def test_no_evidence_is_an_error_only_where_states_need_it():
    subject, _ = subject_of("GRU")
    with pytest.raises(EvidenceError, match="range of states"):
        PostTraining(states="static", inputs=False).plan(subject)
    linear = Subject.of(nn.Linear(3, 2), torch.randn(1, 3))
    PostTraining(states="static", inputs=False).plan(linear)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("codes", ["affine", "symmetric"])
def test_the_target_gives_what_the_live_model_gives(kind, codes):
    subject, batches = subject_of(kind, bidirectional=True)
    live = apply(subject, planned(subject, batches, PostTraining(states="static", input_codes=codes)))
    frozen = freeze(live)
    lowered = lower_frozen(frozen, graph_of(frozen, batches[0][0]))
    assert set(lowered.integer) == set(subject.sites)
    assert not lowered.reasons
    x = batches[0][0][0]
    name = lowered.proto.graph.input[0].name
    found = next(iter(run_session(open_session(lowered.proto), {name: x.numpy()}).values()))
    np.testing.assert_allclose(found, live.model(x).detach().numpy(), atol=2e-3)


class Static(PostTraining, frozen=True, tag="test.static"):
    """States on grids, for the conformance suite."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"states": "static"})
    states: Literal["dynamic", "static"] = "static"


RECURRENT = [
    pytest.param(network, marks=[] if network.name == "lstm" else [pytest.mark.slow], id=network.name)
    for network in NETWORKS
    if any(isinstance(module, nn.RNNBase) for module in network.build().modules())
]


@pytest.mark.parametrize("network", RECURRENT)
@pytest.mark.parametrize(
    "promise",
    [
        checks.input_is_untouched,
        checks.plan_is_deterministic,
        checks.excluded_sites_are_identical,
        checks.ties_survive,
        checks.dtype_mode_and_training_flags_survive,
        checks.every_site_is_treated_or_skipped,
        checks.plan_survives_saving,
    ],
    ids=lambda promise: promise.__name__,
)
def test_promise(promise, network, monkeypatch):
    monkeypatch.setattr(static_loop, "LEAST_STATIC", dict.fromkeys(static_loop.LEAST_STATIC, 1))
    promise(Static, network)


@pytest.mark.parametrize("network", RECURRENT)
def test_file_gives_equal_bits(network, tmp_path, monkeypatch):
    monkeypatch.setattr(static_loop, "LEAST_STATIC", dict.fromkeys(static_loop.LEAST_STATIC, 1))
    checks.file_gives_equal_bits(Static, network, tmp_path)

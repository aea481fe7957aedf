"""SmoothQuant: scales worked out by hand, an unchanged function, where scales move and where they cannot."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from awkward.networks import BY_NAME
from torch import Tensor, nn

from gossamer.artifact import save
from gossamer.calibrate import calibrate
from gossamer.errors import EvidenceError
from gossamer.methods.quantize import PostTraining, Smooth
from gossamer.methods.quantize.smooth import LEAST, factors
from gossamer.model import Plan, Subject, Unseen, apply, freeze, load, to_artifact
from gossamer.targets import graph_bytes, lower_artifact, not_integer
from gossamer.targets.export import export
from gossamer.zoo.transformer import Layer

X = torch.Generator().manual_seed(0)


def smoothed(model: nn.Module, x: Tensor, method: Smooth | None = None) -> tuple[Subject, Plan, Subject]:
    """Return a subject, the plan for it from the peaks on ``x``, and what the plan makes of it."""
    subject = Subject.of(model.eval(), x)
    plan = (method or Smooth()).plan(subject, calibrate(subject, [((x,), {}, None)], "peak"))
    return subject, plan, apply(subject, plan)


def same(first: Subject, second: Subject, x: Tensor) -> None:
    """Check that two subjects are one function in double precision."""
    with torch.no_grad():
        torch.testing.assert_close(second.model(x), first.model(x), rtol=1e-10, atol=1e-10)


def reasons(plan: Plan) -> dict[str, str]:
    return {skip.site: skip.reason for skip in plan.skipped}


def doubles(model: nn.Module, *shape: int) -> tuple[nn.Module, Tensor]:
    """Return ``model`` in double precision with norms that have something to say, and inputs for it."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.BatchNorm1d) and module.weight is not None:
            module.weight.data.uniform_(0.1, 3)
            if getattr(module, "bias", None) is not None:
                module.bias.data.uniform_(-1, 1)
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.2, 2)
    return model.double(), torch.randn(*shape, generator=X).double()


def test_factors_by_hand():
    inputs, weights = torch.tensor([16.0, 4.0, 0.0, 3.0]).double(), torch.tensor([4.0, 1.0, 5.0, 0.0]).double()
    assert factors(inputs, weights, 0.5).tolist() == [2.0, 2.0, 1.0, 1.0]
    assert factors(inputs, weights, 1.0).tolist() == [16.0, 4.0, 1.0, 1.0]
    assert factors(inputs, weights, 0.0).tolist() == [0.25, 1.0, 1.0, 1.0]
    # 16^¾ / 4^¼ = 8 / √2.
    assert factors(inputs, weights, 0.75)[0].item() == pytest.approx(8 / 2**0.5)
    assert factors(torch.tensor([1e-12]).double(), torch.tensor([1.0]).double(), 1.0).item() == LEAST


def test_two_layers_behind_a_norm_by_hand():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.RMSNorm(2, eps=0)
            self.left, self.right = nn.Linear(2, 1), nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            states = self.norm(x)
            return self.left(states) + self.right(states)

    model = Two()
    model.norm.weight.data = torch.tensor([16.0, 1.0])
    model.left.weight.data, model.right.weight.data = torch.tensor([[1.0, -1.0]]), torch.tensor([[-4.0, 0.5]])
    _, plan, done = smoothed(model, torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    # Norms of (1, -1) are (16, -1): s = √(16 / 4) and √(1 / 1), of the joint maxima 4 and 1 of both layers.
    assert set(plan.tensors) == {"norm.weight", "left.weight", "right.weight"}
    assert done.model.norm.weight.tolist() == [8.0, 1.0]
    assert done.model.left.weight.tolist() == [[2.0, -1.0]]
    assert done.model.right.weight.tolist() == [[-8.0, 0.5]]


@pytest.mark.parametrize("first", [True, False], ids=["batch first", "time first"])
def test_a_layer_that_normalises_first_keeps_its_function(first):
    model, x = doubles(nn.TransformerEncoderLayer(8, 2, 16, batch_first=first, norm_first=True), 3, 5, 8)
    subject, plan, done = smoothed(model, x)
    same(subject, done, x)
    norms = {f"norm{number}.{part}" for number in (1, 2) for part in ("weight", "bias")}
    assert set(plan.tensors) == {*norms, "self_attn.in_proj_weight", "linear1.weight"}
    assert reasons(plan).keys() == {"self_attn.out_proj.weight", "linear2.weight"}
    after = calibrate(done, [((x,), {}, None)], "peak")
    for name in ("self_attn.in_proj_weight", "linear1.weight"):
        reach = done.model.get_parameter(name).detach().abs().amax(0)
        torch.testing.assert_close(after.peak(name).double(), reach, rtol=1e-5, atol=0)


def test_a_layer_that_normalises_last_is_left_with_the_reason():
    model, x = doubles(nn.Sequential(*(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in "ab")), 3, 5, 8)
    subject, plan, done = smoothed(model, x)
    same(subject, done, x)
    assert not plan.tensors
    told = reasons(plan)
    assert told.keys() == set(subject.sites)
    assert told["0.self_attn.in_proj_weight"] == "no norm feeds it"
    assert told["1.linear1.weight"] == "aten.layer_norm in 1.norm1, which feeds it, also feeds aten.add in 1"
    assert "no norm with a scale per channel" in told["0.self_attn.out_proj.weight"]


class Block(nn.Module):
    """A block that normalises first, written by hand, with whatever norm."""

    def __init__(self, norm: type[nn.Module], act: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(8), norm(8)
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.out, self.fc1, self.act, self.fc2 = nn.Linear(8, 8), nn.Linear(8, 20), act(), nn.Linear(20, 8)
        self.drop = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        states = self.norm1(x)
        parts = (part(states).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.query, self.key, self.value))
        x = x + self.out(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
        return x + self.fc2(self.drop(self.act(self.fc1(self.drop(self.norm2(x))))))


class Written(nn.Module):
    """A layer norm written out: scale and shift are parameters that multiply and add."""

    def __init__(self, size: int, *, shift: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.2, 2, size))
        self.shift = nn.Parameter(torch.linspace(1, -1, size)) if shift else None

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)
        return self.scale * x if self.shift is None else self.scale * x + self.shift


class Functional(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(size) + 0.1), nn.Parameter(torch.randn(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias)


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm,
        partial(nn.LayerNorm, bias=False),
        nn.RMSNorm,
        Written,
        partial(Written, shift=False),
        Functional,
    ],
    ids=["layer norm", "no bias", "rms norm", "written", "written without shift", "functional"],
)
def test_a_block_keeps_its_function(norm):
    model, x = doubles(Block(norm), 3, 5, 8)
    subject, plan, done = smoothed(model, x)
    same(subject, done, x)
    assert reasons(plan).keys() == {"out.weight", "fc2.weight"}
    after = calibrate(done, [((x,), {}, None)], "peak")
    joint = torch.cat([part.weight for part in (done.model.query, done.model.key, done.model.value)])
    torch.testing.assert_close(after.peak("key.weight").double(), joint.detach().abs().amax(0), rtol=1e-5, atol=0)


def test_layers_in_a_row_are_scaled_where_asked():
    model, x = doubles(Block(nn.LayerNorm, nn.ReLU), 3, 5, 8)
    _, plan, _ = smoothed(model, x)
    assert reasons(plan)["fc2.weight"] == "aten.linear in fc1 feeds it, which is no norm"
    subject, plan, done = smoothed(model, x, Smooth(linear=True))
    same(subject, done, x)
    assert reasons(plan).keys() == {"out.weight"}
    assert {"fc1.weight", "fc1.bias", "fc2.weight"} <= set(plan.tensors)
    after = calibrate(done, [((x,), {}, None)], "peak").peak("fc2.weight").double()
    reach = done.model.fc2.weight.detach().abs().amax(0)
    alive = after > 0
    torch.testing.assert_close(after[alive], reach[alive], rtol=1e-5, atol=0)


def test_a_batch_norm_between_linear_layers_is_a_norm():
    model, x = doubles(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)), 7, 4)
    subject, plan, done = smoothed(model, x)
    same(subject, done, x)
    assert set(plan.tensors) == {"1.weight", "1.bias", "3.weight"}


def test_a_head_behind_pooled_steps():
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm, self.out = Layer(8, 2), nn.LayerNorm(8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.norm(self.layer(x)).mean(1))

    model, x = doubles(Pooled(), 3, 5, 8)
    subject, plan, done = smoothed(model, x)
    same(subject, done, x)
    assert set(plan.tensors) == {"norm.weight", "norm.bias", "out.weight"}


class Odd(nn.Module):
    """What a norm makes goes through ``how`` to a linear layer."""

    def __init__(self, how, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.norm, self.fc, self.free = norm or nn.LayerNorm(8), nn.Linear(8, 8), nn.Parameter(torch.rand(8) + 0.5)
        self.how = how

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.how(self, self.norm(x))


def squares(self, x):
    return self.fc(x * x)


def returned(self, x):
    return self.fc(x) + 0, x


def turned(self, x):
    return self.fc(x.transpose(1, 2))


def twice(self, x):
    return self.fc(self.fc(x))


def shared_scale(self, x):
    return self.fc(x * self.free) * self.free


def derived_scale(self, x):
    return self.fc(torch.tanh(x) * (1 + self.free))


def transposed(self, x):
    return x @ self.fc.weight + self.fc(x)


def widened(self, x):
    return self.fc(x.mean(-1, keepdim=True) + self.free)


def also_read(self, x):
    return self.fc(x) + x.sum(-1, keepdim=True)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (squares, "aten.mul"),
        (returned, "the model returns what aten.layer_norm in norm makes"),
        (turned, "aten.transpose"),
        (twice, "no linear layer multiplies it as it is"),
        (shared_scale, "free, which feeds it, is used more than once"),
        (derived_scale, "aten.mul"),
        (transposed, "no linear layer multiplies it as it is"),
        (widened, "aten.add"),
        (also_read, "aten.sum"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_not_exact_is_left(how, why):
    model, x = doubles(Odd(how), 3, 8, 8)
    _, plan, _ = smoothed(model, x)
    assert not plan.tensors
    assert why in reasons(plan)["fc.weight"]


@pytest.mark.parametrize("norm", [nn.LayerNorm(8, elementwise_affine=False), nn.LayerNorm((5, 8)), nn.Identity()])
def test_a_norm_without_a_scale_per_channel_is_none(norm):
    model, x = doubles(Odd(lambda self, y: self.fc(y) + self.free, norm), 3, 5, 8)
    _, plan, _ = smoothed(model, x)
    assert not plan.tensors
    assert "fc.weight" in reasons(plan)


def test_readers_go_together_or_not_at_all():
    model, x = doubles(Block(nn.LayerNorm), 3, 5, 8)
    _, plan, done = smoothed(model, x, Smooth(exclude=("key.weight",)))
    told = reasons(plan)
    assert told["query.weight"] == "aten.layer_norm in norm1 also feeds key.weight, and it is excluded"
    assert set(plan.tensors) == {"norm2.weight", "norm2.bias", "fc1.weight"}
    evidence = calibrate(done, [((x,), {}, None)], {"range", "peak"})
    on_grids = apply(done, PostTraining(include=("fc1.weight",)).plan(done, evidence))
    again = Smooth().plan(on_grids, evidence)
    assert "shared or on a grid already" in reasons(again)["fc1.weight"]
    assert "norm2.weight" not in again.tensors


def test_attention_to_something_else_is_multiplied_in_parts():
    x, memory = torch.randn(3, 5, 8), torch.randn(3, 4, 8)
    model = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True, norm_first=True).eval()
    subject = Subject.of(model, x, memory)
    plan = Smooth().plan(subject, calibrate(subject, [((x, memory), {}, None)], "peak"))
    assert {"self_attn.in_proj_weight", "linear1.weight"} <= set(plan.tensors)
    assert "multihead_attn.in_proj_weight" in reasons(plan)
    with torch.no_grad():
        torch.testing.assert_close(apply(subject, plan).model(x, memory), model(x, memory))


def test_attention_is_told_by_its_module_where_sizes_do_not_tell():
    model, x = doubles(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True), 8, 8, 8)
    subject, plan, done = smoothed(model, x)
    same(subject, done, x)
    assert "self_attn.in_proj_weight" in plan.tensors


class Twice(nn.Module):
    """Two layers behind one norm that runs twice, or one layer that is tied to another behind a norm of its own."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.norm, self.left, self.right = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.other = nn.LayerNorm(8) if tied else self.norm
        if tied:
            self.right.weight = self.left.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.left(self.norm(x)) + self.right(self.other(x + 1))


@pytest.mark.parametrize(("tied", "why"), [(True, "not its own"), (False, "norm.weight, which feeds it, is used more")])
def test_what_is_used_twice_is_left(tied, why):
    model, x = doubles(Twice(tied=tied), 3, 5, 8)
    _, plan, _ = smoothed(model, x)
    assert not plan.tensors
    assert why in reasons(plan)["left.weight"]


def test_a_graph_that_cannot_be_followed_is_told():
    model, x = doubles(Odd(lambda self, y: self.fc(y) if y.sum() > 0 else self.fc(y) + 1), 3, 5, 8)
    _, plan, _ = smoothed(model, x)
    assert not plan.tensors
    assert "hides the graph: torch.export" in reasons(plan)["fc.weight"]


def test_a_block_that_is_not_seen_may_read_anything():
    model, x = doubles(Block(nn.LayerNorm), 3, 5, 8)
    subject = Subject.of(model.eval(), x)
    evidence = calibrate(subject, [((x,), {}, None)], "peak")
    hidden = Unseen("cond", "model.py:3", "how often its block runs depends on the data")
    vars(subject)["graph"] = replace(subject.graph, unseen=(hidden,))
    plan = Smooth().plan(subject, evidence)
    assert not plan.tensors
    assert reasons(plan)["fc1.weight"].startswith("cond in model.py:3 hides the graph")


def test_half_precision_stays():
    torch.manual_seed(0)
    model, x = Block(nn.LayerNorm).bfloat16(), torch.randn(3, 5, 8).bfloat16()
    subject, plan, done = smoothed(model, x)
    assert {value.dtype for value in plan.tensors.values()} == {torch.bfloat16}
    with torch.no_grad():
        torch.testing.assert_close(done.model(x), subject.model(x), rtol=0.05, atol=0.05)


def test_peaks_are_asked_for():
    subject = Subject.of(Block(nn.LayerNorm), torch.randn(3, 5, 8))
    with pytest.raises(EvidenceError, match="needs the peaks of inputs, got no evidence"):
        Smooth().plan(subject)


def test_what_is_no_linear_layer_is_told():
    for name in ("tied weights", "lstm", "grouped convolution", "hand-written attention"):
        network = BY_NAME[name]
        args, kwargs = network.inputs()
        subject = Subject.of(network.build(), *args, **kwargs)
        plan = Smooth().plan(subject, calibrate(subject, [(args, kwargs, None)], "peak"))
        assert reasons(plan).keys() == set(subject.sites)


def outlying(model: Block) -> Block:
    """Return ``model``, the same function, with channels behind its norms that are 50 times as large as the others."""
    with torch.no_grad():
        for norm, layers in ((model.norm1, (model.query, model.key, model.value)), (model.norm2, (model.fc1,))):
            for channel in (1, 6):
                for part in (norm.weight, norm.bias):
                    part[channel] *= 50
                for layer in layers:
                    layer.weight[:, channel] /= 50
    return model


def test_outlying_channels_cost_little_once_they_are_smoothed():
    torch.manual_seed(0)
    plain = Block(nn.LayerNorm).eval()
    x = torch.randn(64, 5, 8)
    with torch.no_grad():
        wanted = plain(x)

    def error(subject: Subject) -> float:
        grids = PostTraining(weight_bits=8).plan(subject, calibrate(subject, [((x,), {}, None)], "range"))
        with torch.no_grad():
            return ((apply(subject, grids).model(x) - wanted).norm() / wanted.norm()).item()

    bare = error(Subject.of(plain, x))
    subject, _, done = smoothed(outlying(plain), x)
    with torch.no_grad():
        torch.testing.assert_close(done.model(x), wanted, rtol=1e-4, atol=1e-5)
    rough, smooth = error(subject), error(done)
    assert rough > 10 * bare
    assert smooth < 1.5 * bare


@pytest.mark.slow
def test_what_is_smoothed_runs_in_integers_but_for_joint_projections():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hand = Block(nn.LayerNorm)
            self.torch = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.torch(self.hand(x))

    x = torch.randn(3, 5, 8)
    _, plan, done = smoothed(Both(), x)
    assert "torch.self_attn.in_proj_weight" in plan.tensors
    grids = PostTraining().plan(done, calibrate(done, [((x,), {}, None)], "range"))
    frozen = freeze(apply(done, grids))
    stored = to_artifact(frozen)
    proto = export(frozen.model, (x,))
    lowered = lower_artifact(replace(stored, graph=graph_bytes(proto, {*stored.tensors, *stored.aliases})))
    hand = {f"hand.{name}.weight" for name in ("query", "key", "value", "out", "fc1", "fc2")}
    assert set(lowered.integer) == {*hand, "torch.linear1.weight", "torch.linear2.weight"}
    assert not not_integer(lowered.proto, lowered.integer)
    assert "multiplied in float" in reasons(grids)["torch.self_attn.in_proj_weight"]


def test_a_smoothed_network_comes_back_from_its_file(tmp_path):
    x = torch.randn(3, 5, 8)
    _, _, done = smoothed(Block(nn.LayerNorm), x)
    save(tmp_path / "a.goss", to_artifact(freeze(done)))
    read = load(tmp_path / "a.goss").into(Block(nn.LayerNorm).eval())
    with torch.no_grad():
        assert torch.equal(read(x), done.model(x))

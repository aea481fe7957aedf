"""Every awkward network becomes a subject, is constrained, frozen, stored and loaded."""

import pytest
import torch
from awkward.networks import NETWORKS, Awkward
from torch.utils import _pytree as pytree

from gossamer import artifact
from gossamer.model import Codebook, Grid, Mask, Plan, Subject, apply, freeze, live_weight, load, to_artifact

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")


def outputs(model, network: Awkward):
    args, kwargs = network.inputs()
    with torch.no_grad():
        return pytree.tree_leaves(model(*args, **kwargs))


def same(left, right) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def close(left, right) -> None:
    """Weights that agree in every bit may meet other kernels: torch chooses them by ``requires_grad`` too."""
    for one, other in zip(left, right, strict=True):
        tolerance = 1e-5 if one.dtype == torch.float32 else 1e-2
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def subject_of(network: Awkward) -> Subject:
    args, kwargs = network.inputs()
    return Subject.of(network.build(), *args, **kwargs)


def plans(subject: Subject) -> dict[str, Plan]:
    generator = torch.Generator().manual_seed(3)
    masks, codebooks, grids = {}, {}, {}
    for name, site in subject.sites.items():
        value = live_weight(subject, name)
        masks[name] = Mask(torch.rand(site.shape, generator=generator) > 0.5)
        codebooks[name] = Codebook(
            torch.randint(0, 4, site.shape, generator=generator), torch.tensor([-0.3, -0.1, 0.1, 0.4]).to(value.dtype)
        )
        scale = value.float().abs().amax(tuple(range(1, value.ndim))).clamp_min(0.01) / 127
        grids[name] = Grid(scale, torch.zeros(len(scale), dtype=torch.int32), axis=0)
    return {"mask": Plan("t", masks), "codebook": Plan("t", codebooks), "grid": Plan("t", grids)}


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
@pytest.mark.parametrize("kinds", [("mask", "codebook"), ("grid", "mask")], ids="+".join)
def test_constrained_model_survives_the_file(network, kinds, tmp_path):
    subject = subject_of(network)
    every = plans(subject)
    for kind in kinds:
        subject = apply(subject, every[kind])
    frozen = freeze(subject)
    for name in subject.sites:
        assert torch.equal(live_weight(subject, name), frozen.model.get_parameter(name))
    close(outputs(subject.model, network), outputs(frozen.model, network))
    artifact.save(tmp_path / "a.goss", to_artifact(frozen))
    filled = load(tmp_path / "a.goss").into(network.build(seed=9))
    assert same(outputs(filled, network), outputs(frozen.model, network))
    wanted = frozen.model.state_dict()
    assert {name: value.dtype for name, value in filled.state_dict().items()} == {n: v.dtype for n, v in wanted.items()}


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
def test_graph_sees_every_used_weight(network):
    subject = subject_of(network)
    graph = subject.graph
    assert not graph.unseen
    read = {site for node in graph.nodes for site in node.sites}
    idle = {"idle.weight", "loose"} if network.name == "unused parameter" else set()
    assert set(subject.sites) - read == idle
    assert {name for name in graph.unused if name in subject.sites} == idle
    assert graph.macs
    assert graph.peak_bytes


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
def test_subject_leaves_the_model_alone(network):
    model = network.build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = outputs(model, network)
    args, kwargs = network.inputs()
    subject = Subject.of(model, *args, **kwargs)
    constrained = apply(subject, plans(subject)["mask"])
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert same(outputs(model, network), expected)
    close(outputs(subject.model, network), expected)
    assert not same(outputs(constrained.model, network), expected)

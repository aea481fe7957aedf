"""Bias correction: the shift by hand, equal means layer after layer, what is left alone."""

import pytest
import torch
from torch import nn

from gossamer.calibrate import calibrate, load_evidence, save_evidence
from gossamer.errors import EvidenceError
from gossamer.methods.quantize import BiasCorrection, PostTraining
from gossamer.model import Grid, Plan, Subject, apply


def corrected(subject, batches):
    method = BiasCorrection()
    plan = method.plan(subject, calibrate(subject, batches, method.needs))
    return plan, apply(subject, plan)


def means(model, batches):
    """Return the mean of what each layer makes, per channel."""
    found = {}

    def note(path):
        def see(_module, _args, made):
            dim = 1 if made.ndim == 4 else made.ndim - 1
            found.setdefault(path, []).append(made.detach().double().movedim(dim, -1).flatten(0, -2))

        return see

    hooks = [m.register_forward_hook(note(p)) for p, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        for args, _, _ in batches:
            model(*args)
    for hook in hooks:
        hook.remove()
    return {path: torch.cat(rows).mean(0) for path, rows in found.items()}


def test_a_layer_by_hand():
    layer = nn.Linear(2, 2)
    layer.weight.data = torch.tensor([[0.4, 1.0], [2.0, -1.4]])
    layer.bias.data = torch.tensor([1.0, 2.0])
    x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])  # means 2 and 1
    subject = Subject.of(layer.eval(), x)
    on = apply(subject, Plan("by.hand", {"weight": Grid(torch.tensor(1.0), torch.tensor(0), 4)}))
    plan, done = corrected(on, [((x,), {}, None)])
    # ε = ((-0.4, 0), (0, 0.4)): ε E[x] = (-0.8, 0.4).
    torch.testing.assert_close(plan.tensors["bias"], torch.tensor([1.8, 1.6]))
    torch.testing.assert_close(done.model(x).mean(0), layer(x).mean(0))


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(54, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )
    batches = [((torch.rand(size, 1, 8, 8),), {}, None) for size in (4, 7)]
    return Subject.of(model.eval(), batches[0][0][0]), batches


def test_every_mean_comes_back_though_batches_differ_in_size(network):
    subject, batches = network
    method = PostTraining(weight_bits=3)
    rounded = apply(subject, method.plan(subject, calibrate(subject, batches, method.needs)))
    before, between = means(subject.model, batches), means(rounded.model, batches)
    plan, done = corrected(rounded, batches)
    after = means(done.model, batches)
    assert set(plan.tensors) == {"0.bias", "2.bias", "5.bias", "7.bias"}
    for path, mean in before.items():
        assert (between[path] - mean).abs().max() > 1e-3
        torch.testing.assert_close(after[path], mean, rtol=0, atol=2e-6)


def test_inputs_on_grids_are_corrected_too(network):
    subject, batches = network
    grid = Grid(torch.tensor(0.4), torch.tensor(0), 2, signed=False)
    rounded = apply(subject, Plan("by.hand", activations={"2.weight": grid}))
    plan, _ = corrected(rounded, batches)
    assert set(plan.tensors) == {"2.bias"}
    assert {skip.site for skip in plan.skipped} == {"0.weight", "5.weight", "7.weight"}


def test_a_layer_without_a_bias_is_told():
    subject = Subject.of(nn.Linear(2, 2, bias=False), torch.rand(3, 2))
    on = apply(subject, Plan("by.hand", {"weight": Grid(torch.tensor(0.2), torch.tensor(0), 4)}))
    plan, _ = corrected(on, [((torch.rand(3, 2),), {}, None)])
    assert not plan.tensors
    assert plan.skipped[0].reason == "its layer has no bias to correct"


def test_without_evidence_it_says_what_to_do(network):
    subject, batches = network
    with pytest.raises(EvidenceError, match="shifts of outputs") as caught:
        BiasCorrection().plan(subject)
    assert "'shift'" in caught.value.hint
    with pytest.raises(EvidenceError):
        BiasCorrection().plan(subject, calibrate(subject, batches, {"range"}))


def test_shifts_are_kept_on_disk(network, tmp_path):
    subject, batches = network
    method = PostTraining(weight_bits=4)
    rounded = apply(subject, method.plan(subject, calibrate(subject, batches, method.needs)))
    evidence = calibrate(rounded, batches, {"shift"})
    save_evidence(tmp_path / "e", evidence)
    again = load_evidence(tmp_path / "e")
    assert again.shifts.keys() == evidence.shifts.keys()
    assert all(torch.equal(again.shift(site), evidence.shift(site)) for site in evidence.shifts)

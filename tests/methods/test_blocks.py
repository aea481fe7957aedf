"""Dropping blocks by their measured effect: a chain worked by hand, and reference networks end to end."""

import math

import pytest
import torch
from torch import nn

from gossamer import artifact, datasets, zoo
from gossamer.calibrate import calibrate, load_evidence, reset_batch_norm, save_evidence
from gossamer.errors import EvidenceError, GossamerError, ModelError, PatternError
from gossamer.methods.prune import Blocks
from gossamer.model import Drop, Subject, apply, cost_of, freeze, load, to_artifact
from gossamer.recipe import Recipe, Step, run
from gossamer.targets import compare, to_onnx
from gossamer.task import Batch, Task, evaluate


class Scaled(nn.Module):
    """A block x + w·x."""

    def __init__(self, weight):
        super().__init__()
        self.fc = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.fc.weight, weight)

    def forward(self, x):
        return x + self.fc(x)


def chain():
    return nn.Sequential(*(Scaled(weight) for weight in (1.0, 0.5, 2.0)))


def squares(outputs, targets):
    return (outputs - targets).square().mean()


X = torch.tensor([[1.0]])
BATCHES = [Batch((X,), {}, torch.tensor([[9.0]])), Batch((2 * X,), {}, torch.tensor([[17.0]]))]


def measured(subject, needs=("depth",)):
    return calibrate(subject, BATCHES, needs, loss=squares)


def drops(method, subject=None):
    subject = subject or Subject.of(chain(), X)
    return [edit.module for edit in method.plan(subject, measured(subject, method.needs)).edits]


def test_depth_is_the_rise_of_the_loss_without_each_block():
    # with all: 2 · 1.5 · 3 = 9 of 9, and 18 of 17; without one: 4.5, 6, 3 of 9, and 9, 12, 6 of 17
    found = measured(Subject.of(chain(), X))
    wanted = {"0": (20.25 + 63) / 2, "1": (9 + 24) / 2, "2": (36 + 120) / 2}
    assert {path: found.depth(path) for path in wanted} == pytest.approx(wanted)


def test_least_harmful_blocks_go_first_and_as_many_as_come_nearest():
    assert drops(Blocks(amount=0.0)) == []
    assert drops(Blocks(amount=0.01)) == ["1"]
    assert drops(Blocks(amount=0.4)) == ["1"]
    assert drops(Blocks(amount=0.6)) == ["1", "0"]
    assert drops(Blocks(amount=0.6, of="parameters")) == ["1", "0"]
    assert drops(Blocks(amount=0.6, of="blocks")) == ["1", "0"]
    assert drops(Blocks(amount=0.6, of="blocks", exclude=("0.*",))) == ["1"]


def test_where_all_blocks_go_nothing_is_measured():
    method = Blocks(amount=1.0, of="blocks", blocks=("1", "2"))
    assert method.needs == frozenset()
    plan = method.plan(Subject.of(chain(), X))
    assert [edit.module for edit in plan.edits] == ["1", "2"]
    assert plan.reset_norms
    assert Blocks(amount=1.0).needs == {"depth"}


def test_in_steps_each_is_measured_without_those_before():
    # 9 = 3 · 1.5 · 2 with the middle one gone leaves 6: now the first, gone, gives 3, the last 2
    subject = Subject.of(chain(), X)
    once = apply(subject, Blocks(amount=0.1).plan(subject, measured(subject)))
    found = measured(once)
    assert found.depth("0") == pytest.approx((36 + 121) / 2 - (9 + 25) / 2)
    assert drops(Blocks(amount=0.1), once) == ["0"]


def test_a_block_without_which_the_loss_is_not_finite_goes_last():
    def loss(outputs, targets):
        return squares(outputs, targets) / (outputs > 7).float().mean().clamp(0, 1)

    subject = Subject.of(chain(), X)
    found = calibrate(subject, BATCHES, {"depth"}, loss=loss)
    assert found.depth("2") == math.inf
    with pytest.raises(EvidenceError, match="batch 0: wanted the loss to be one finite number, got nan"):
        calibrate(subject, BATCHES, {"depth"}, loss=lambda outputs, _: outputs.sum() * float("nan"))


def test_sites_that_stay_say_why():
    subject = Subject.of(chain(), X)
    plan = Blocks(amount=0.1, exclude=("0.*",)).plan(subject, measured(subject))
    reasons = {skip.site: skip.reason for skip in plan.skipped}
    assert reasons.keys() == {"0.fc.weight", "2.fc.weight"}
    assert "holds 0.fc.weight, which is left alone" in reasons["0.fc.weight"]
    assert reasons["2.fc.weight"].startswith("its block 2 stays")


def test_a_recurrent_network_has_no_blocks_and_says_so():
    subject = Subject.of(zoo.build("char-rnn"), *zoo.example("char-rnn"))
    found = calibrate(subject, [Batch(subject.args, {}, None)], {"depth"}, loss=lambda y, _: y[0].sum())
    plan = Blocks(amount=0.5).plan(subject, found)
    assert not plan.edits
    assert not plan.reset_norms
    assert {skip.site for skip in plan.skipped} == set(subject.sites)
    assert {skip.reason for skip in plan.skipped} == {
        "no residual block whose output has the shape of its input holds it"
    }


def test_what_is_missing_or_cannot_be_counted_is_told():
    subject = Subject.of(chain(), X)
    with pytest.raises(EvidenceError, match=r"prune\.blocks was given no evidence"):
        Blocks(amount=0.5).plan(subject)
    with pytest.raises(EvidenceError, match="asked for depths without a loss"):
        calibrate(subject, BATCHES, {"depth"})
    with pytest.raises(EvidenceError, match="no depth was collected for 0"):
        Blocks(amount=0.5).plan(subject, calibrate(subject, BATCHES, {"range"}))
    with pytest.raises(PatternError, match="'nope'"):
        drops(Blocks(amount=0.5, blocks=("nope",)))


class Unseen(nn.Module):
    """A branch on data, which no graph shows, around a layer of equal sizes."""

    def __init__(self):
        super().__init__()
        self.fc, self.out = nn.Linear(1, 1), nn.Linear(1, 2)

    def forward(self, x):
        return self.out(self.fc(x) if x.sum() > 0 else -self.fc(x)).sum(1, keepdim=True)


def test_without_a_graph_named_modules_go_by_their_parameters():
    subject = Subject.of(Unseen(), X)
    assert drops(Blocks(amount=0.3, of="parameters", blocks=("fc",)), subject) == ["fc"]
    with pytest.raises(ModelError, match="operations cannot be counted"):
        drops(Blocks(amount=0.3, blocks=("fc",)), subject)
    plan = Blocks(amount=0.3).plan(subject, measured(subject))
    assert plan.skipped[0].reason == "residual blocks cannot be told, for the graph was not seen"


def test_depths_survive_on_disk(tmp_path):
    found = measured(Subject.of(chain(), X), ("depth", "depth:1"))
    save_evidence(tmp_path / "e.safetensors", found)
    again = load_evidence(tmp_path / "e.safetensors")
    assert again.depths == found.depths
    assert again.kinds == {"depth", "depth:1"}


def small_and_its_file(subject, plan, fresh, folder):
    """Apply ``plan``; check the file of the result, a fresh instance filled from it, its graph and its counts."""
    small = apply(subject, plan)
    frozen = freeze(small)
    artifact.save(folder / "a.goss", to_artifact(frozen))
    filled = load(folder / "a.goss").into(fresh).eval()
    inputs = tuple(torch.randint(0, 1000, given.shape) if given.dtype == torch.int64 else torch.randn_like(given)
                   for given in small.args)  # fmt: skip
    assert torch.equal(filled(*inputs), frozen.model.eval()(*inputs))
    assert compare(filled, to_onnx(frozen, small.args), inputs) <= 1e-4
    stored = artifact.load(folder / "a.goss")
    names = dict(filled.named_parameters())
    assert sum(stored.array(name).size for name in names) == cost_of(small).parameters
    model = small.model.train()
    model(*small.args).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    return small


@pytest.mark.slow
def test_a_transformer_loses_the_layer_it_misses_least(tmp_path):
    subject = Subject.of(zoo.build("transformer").eval(), *zoo.example("transformer"))
    batches = [Batch((torch.randint(0, 1000, (4, 64)),), {}, torch.arange(4))]
    found = calibrate(subject, batches, {"depth"}, loss=nn.functional.cross_entropy)
    plan = Blocks(amount=0.25).plan(subject, found)
    (edit,) = plan.edits
    assert found.depth(edit.module) == min(found.depths.values())
    small = small_and_its_file(subject, plan, zoo.build("transformer"), tmp_path)
    assert cost_of(subject).parameters - cost_of(small).parameters == 198_272


@pytest.mark.slow
def test_a_recipe_drops_one_block_a_step(tmp_path):
    x = torch.rand(40, 1) + 1
    task = Task.regression("nine", (x, 9 * x), batch_size=20)
    recipe = Recipe(name="depth", steps=(Step(method=Blocks(amount=0.1)), Step(method=Blocks(amount=0.1))))
    outcome = run(recipe, Subject.of(chain(), X), task, tmp_path)
    assert [edit.module for edit in outcome.subject.edits] == ["1", "0"]
    assert outcome.report.steps[0].treated == ("1",)
    filled = load(outcome.file).into(chain())
    assert torch.equal(filled(X), outcome.subject.model(X))


@pytest.fixture(scope="module")
def fashion():
    try:
        return datasets.load("fashion-mnist")
    except GossamerError as error:
        pytest.skip(f"no data: {error}")


@pytest.mark.slow
def test_the_resnet_loses_a_block_and_little_accuracy(fashion, tmp_path):
    args, kwargs = fashion.example
    subject = Subject.of(zoo.build("resnet20", pretrained=True).eval(), *args, **kwargs)
    picked = torch.Generator().manual_seed(0)
    batches = list(fashion.batches("train", batch_size=128, samples=256, generator=picked))
    found = calibrate(subject, batches, {"depth"}, loss=fashion.loss)
    assert set(found.depths) == {f"blocks.{i}" for i in (0, 1, 2, 4, 5, 7, 8)}
    plan = Blocks(amount=0.12).plan(subject, found)
    assert plan.edits == (Drop(min(found.depths, key=found.depths.__getitem__)),)
    assert plan.reset_norms
    small = small_and_its_file(subject, plan, zoo.build("resnet20"), tmp_path)
    small.model.eval()
    whole, left = (evaluate(one, fashion, samples=1000)["accuracy"] for one in (subject, small))
    repaired = evaluate(reset_batch_norm(small, batches), fashion, samples=1000)["accuracy"]
    assert max(left, repaired) > whole - 0.05

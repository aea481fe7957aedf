"""The networks of published size: their operators are all seen, and their cost is the published one.

They are built on torch's meta device, where tensors have shapes and no values, so the largest takes no memory.
"""

import pytest
import torch
from torch import nn

from gossamer import zoo
from gossamer.model import Subject
from gossamer.model.trace import trace
from gossamer.zoo.densenet import DenseNet121
from gossamer.zoo.googlenet import Inception
from gossamer.zoo.mobilenetv2 import InvertedResidual
from gossamer.zoo.resnet import Basic, Bottleneck, ResNet
from gossamer.zoo.seq2seq import Attention, Seq2Seq
from gossamer.zoo.squeezenet import SqueezeNet
from gossamer.zoo.transformer import Transformer, TransformerWritten
from gossamer.zoo.unet import UNet

PUBLISHED = {
    "alexnet": 0.714,
    "vgg16": 15.470,
    "vgg16-bn": 15.470,
    "vgg19": 19.632,
    "vgg19-bn": 19.632,
    "googlenet": 1.498,
    "resnet18": 1.814,
    "resnet50": 4.089,
    "resnet152": 11.514,
    "mobilenetv2": 0.301,
    "densenet121": 2.834,
    "squeezenet": 0.349,
}
"""GMAC of one 224×224 image."""

LONG = {"googlenet", "resnet152", "densenet121"}
WIDTH, STEPS = 128, 64
WORKED = {
    # four layers: four square matrices and two of four times the width, and twice scores of 64 × 64; the classes
    **dict.fromkeys(
        ("transformer", "transformer-written"), 4 * STEPS * (12 * WIDTH**2 + 2 * STEPS * WIDTH) + WIDTH * 10
    ),
    # 20 + 16 steps of two layers with four gates; W_a, scores, contexts; W_c; the tokens
    "seq2seq-lstm": 36 * 4 * 256 * (128 + 3 * 256) + 20 * 256**2 + 2 * 16 * 20 * 256 + 16 * 512 * 256 + 16 * 256 * 1000,
    "seq2seq-gru": 36 * 3 * 256 * (128 + 3 * 256) + 20 * 256**2 + 2 * 16 * 20 * 256 + 16 * 512 * 256 + 16 * 256 * 1000,
}


def _graph(name):
    with torch.device("meta"):
        model = zoo.network(name).make()
    return trace(model, tuple(given.to("meta") for given in zoo.example(name)), {})


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in PUBLISHED]
)
def test_macs_are_those_published(name):
    graph = _graph(name)
    assert graph.unseen == graph.unused == ()
    assert graph.macs / 1e9 == pytest.approx(PUBLISHED[name], rel=0.01)


@pytest.mark.parametrize("name", WORKED)
def test_macs_of_sequence_networks_are_those_worked_by_hand(name):
    graph = _graph(name)
    assert graph.unseen == graph.unused == ()
    assert graph.macs == WORKED[name]


def test_macs_of_the_small_u_net_are_those_worked_by_hand():
    pixels, width = 64**2, 16
    stages = [9 * (1 * width + width**2)]  # per pixel of its size: the first stage, then those below, then those above
    stages += [9 * (2**i * width) * (2**i * width // 2 + 2**i * width) for i in range(1, 5)]
    down = sum(cost * pixels // 4**i for i, cost in enumerate(stages))
    merges = sum(9 * 3 * (2**i * width) ** 2 * pixels // 4**i for i in range(4))
    ups = sum(2 * (2**i * width) ** 2 * pixels // 4**i for i in range(4))
    graph = _graph("unet-small")
    assert graph.unseen == graph.unused == ()
    assert graph.macs == down + merges + ups + 2 * width * pixels


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PUBLISHED, "mobilenetv2-small", "unet", *WORKED])
def test_a_new_network_is_a_sound_subject_with_outputs_of_ordinary_size(name):
    torch.manual_seed(0)
    subject = Subject.of(zoo.build(name).eval(), *zoo.example(name))
    assert subject.graph.unseen == ()
    with torch.no_grad():
        outputs = subject.model(*subject.args)
    assert 1e-3 < float(outputs.std()) < 100


@pytest.mark.parametrize("name", zoo.names())
def test_examples_are_the_same_each_time_and_leave_the_random_state(name):
    before = torch.get_rng_state()
    first, second = zoo.example(name), zoo.example(name)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert {len(given) for given in first} == {1}


def test_weights_come_from_torchs_random_state():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(zoo.build("mobilenetv2-small").state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_weights_are_hes():
    torch.manual_seed(3)
    conv = zoo.build("squeezenet").features[0]
    assert float(conv.weight.detach().square().mean()) == pytest.approx(2 / 27, rel=0.1)
    assert not conv.bias.any()


@pytest.mark.parametrize("kind", [Basic, Bottleneck])
def test_a_residual_block_adds_its_shortcut(kind):
    block = kind(8 * kind.GROWTH, 8, stride=1).eval()
    maps = torch.rand(2, 8 * kind.GROWTH, 5, 5)
    nn.init.zeros_(block.bn_last.weight)
    assert torch.equal(block(maps), maps)
    assert kind(3, 8, stride=2)(torch.rand(2, 3, 8, 8)).shape == (2, 8 * kind.GROWTH, 4, 4)


def test_an_inverted_residual_adds_its_input_only_where_shapes_allow():
    block = InvertedResidual(8, 8, 1, 6).eval()
    nn.init.zeros_(block.inner[-1].weight)
    maps = torch.rand(2, 8, 5, 5)
    assert torch.equal(block(maps), maps)
    assert InvertedResidual(8, 8, 2, 6)(maps).shape == (2, 8, 3, 3)
    assert not InvertedResidual(8, 12, 1, 6).residual


def test_an_inception_module_concatenates_its_branches():
    module = Inception(8, (2, (3, 4), (5, 6), 7)).eval()
    maps = torch.rand(2, 8, 5, 5)
    out = module(maps)
    assert out.shape == (2, 2 + 4 + 6 + 7, 5, 5)
    assert torch.equal(out[:, :2], module.one(maps))
    assert torch.equal(out[:, 12:], module.pooled(maps))


@pytest.mark.parametrize(
    "make", [lambda: ResNet(18, classes=7), lambda: DenseNet121(7, growth=4), lambda: SqueezeNet(7)]
)
def test_networks_with_a_mean_over_all_pixels_take_other_sizes_and_train(make):
    model = make()
    logits = model(torch.rand(2, 3, 64, 64))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_u_net_keeps_the_size_and_sees_every_pixel():
    model = UNet(channels=3, classes=4, width=2).eval()
    images = torch.rand(1, 3, 48, 32, requires_grad=True)
    logits = model(images)
    assert logits.shape == (1, 4, 48, 32)
    logits.abs().sum().backward()
    assert images.grad.abs().sum(1).all()


def test_attention_written_out_equals_torchs():
    torch.manual_seed(5)
    theirs, ours = Transformer(16, 4, 2).eval(), TransformerWritten(16, 4, 2).eval()
    state = {}
    for theirs_name, value in theirs.state_dict().items():
        name = theirs_name.replace("linear", "fc").replace("self_attn.out_proj", "attention.out")
        if "in_proj" in name:
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                state[name.replace("self_attn.in_proj_", f"attention.{part}.")] = rows
        else:
            state[name] = value
    ours.load_state_dict(state)
    tokens = torch.randint(1000, (3, 9))
    assert torch.allclose(ours(tokens), theirs(tokens), atol=1e-5)


def test_a_head_without_output_can_be_cut():
    torch.manual_seed(5)
    attention = TransformerWritten(16, 4, 1).layers[0].attention
    states = torch.randn(2, 5, 16)
    with torch.no_grad():
        attention.out.weight[:, 4:8] = 0
        whole = attention(states)
        keep = [i for i in range(16) if not 4 <= i < 8]
        for part in (attention.query, attention.key, attention.value):
            part.weight, part.bias = nn.Parameter(part.weight[keep]), nn.Parameter(part.bias[keep])
        attention.out.weight = nn.Parameter(attention.out.weight[:, keep])
        assert torch.allclose(attention(states), whole, atol=1e-6)


def test_attention_follows_its_equations():
    torch.manual_seed(5)
    attention = Attention(4).double()
    states, source = torch.randn(1, 3, 4).double(), torch.randn(1, 5, 4).double()
    for t, state in enumerate(states[0]):
        weights = torch.softmax(torch.stack([state @ attention.score.weight @ seen for seen in source[0]]), 0)
        context = sum(weight * seen for weight, seen in zip(weights, source[0], strict=True))
        wanted = torch.tanh(attention.combine.weight @ torch.cat([context, state]))
        assert torch.allclose(attention(states, source)[0, t], wanted)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_decoder_sees_the_whole_source_and_only_earlier_target_tokens(kind):
    torch.manual_seed(5)
    model = Seq2Seq(kind, tokens=20, embedding=8, hidden=8).eval()
    source, target = torch.randint(20, (2, 7)), torch.randint(20, (2, 6))
    logits = model(source, target)
    assert logits.shape == (2, 6, 20)
    later, other = target.clone(), source.clone()
    later[:, 4] = (later[:, 4] + 1) % 20
    other[:, -1] = (other[:, -1] + 1) % 20
    assert torch.allclose(model(source, later)[:, :4], logits[:, :4], atol=1e-6)
    assert not torch.allclose(model(source, later)[:, 4:], logits[:, 4:])
    assert not torch.allclose(model(other, target)[:, 0], logits[:, 0])

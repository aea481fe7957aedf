"""The reference networks by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from gossamer.zoo.alexnet import AlexNet
from gossamer.zoo.char_rnn import CharRNN
from gossamer.zoo.characters import SYMBOLS, CharGRU, CharLSTM
from gossamer.zoo.densenet import DenseNet121
from gossamer.zoo.edges import HEIGHT, WIDTH, Edges
from gossamer.zoo.example import Example, frames, real, tokens
from gossamer.zoo.googlenet import GoogLeNet
from gossamer.zoo.lenet5 import LeNet5
from gossamer.zoo.lenet5_lecun import LeNet5LeCun
from gossamer.zoo.lenet300 import LeNet300
from gossamer.zoo.mlp_digits import MLPDigits
from gossamer.zoo.mobilenetv2 import SMALL, MobileNetV2
from gossamer.zoo.resnet import ResNet
from gossamer.zoo.resnet20 import ResNet20
from gossamer.zoo.seq2seq import TOKENS, Seq2Seq
from gossamer.zoo.spoken import SpokenGRU, SpokenLSTM
from gossamer.zoo.squeezenet import SqueezeNet
from gossamer.zoo.transformer import STEPS, Transformer, TransformerWritten
from gossamer.zoo.unet import UNet
from gossamer.zoo.vgg import VGG
from gossamer.zoo.vgg_small import VGGSmall
from gossamer.zoo.xor import XOR


@dataclass(frozen=True)
class Network:
    """A reference network.

    Attributes:
        name: what it is called.
        make: makes a new one, initialised from torch's random state.
        example: makes its example inputs, one sample.
        parameters: how many it has.
        data: the built-in set it is for; None if there is none, as for all networks for ImageNet.
        about: what it is, in a line.
    """

    name: str
    make: Callable[[], nn.Module]
    example: Example
    parameters: int
    data: str | None
    about: str


_SMALL, _LARGE = real(1, 28, 28), real(3, 224, 224)
_FRAMES, _TEXT = frames(40, 13), tokens(SYMBOLS, 64)
_TOKENS, _PAIR = tokens(TOKENS, STEPS), tokens(TOKENS, 20, 16)

NETWORKS: tuple[Network, ...] = (
    Network("xor", XOR, real(2), 9, "xor", "2-2-1 with ReLU"),
    Network("edges", Edges, real(1, HEIGHT, WIDTH), 2, None, "convolution with the kernel (1, -1) on 320×280 images"),
    Network("mlp-digits", MLPDigits, real(1, 8, 8), 50_826, "digits", "64-256-128-10 for 8×8 digits"),
    Network("lenet300", LeNet300, _SMALL, 266_610, "fashion-mnist", "LeNet-300-100"),
    Network("lenet5", LeNet5, _SMALL, 431_080, "fashion-mnist", "LeNet-5, Caffe form 20-50-500-10"),
    Network("lenet5-lecun", LeNet5LeCun, _SMALL, 61_706, "fashion-mnist", "LeNet-5, LeCun's sizes 6-16-120-84-10"),
    Network("vgg-small", VGGSmall, _SMALL, 584_618, "fashion-mnist", "six convolutions with batch normalisation"),
    Network("resnet20", ResNet20, _SMALL, 269_434, "fashion-mnist", "ResNet-20, width 16"),
    Network("mobilenetv2-small", partial(MobileNetV2, SMALL), _SMALL, 272_538, "fashion-mnist", "MobileNetV2, small"),
    Network("digits-gru", SpokenGRU, _FRAMES, 56_202, "spoken-digits", "GRU 128, spoken digits, many to one"),
    Network("digits-lstm", SpokenLSTM, _FRAMES, 74_506, "spoken-digits", "LSTM 128, spoken digits, many to one"),
    Network("char-rnn", CharRNN, _TEXT, 106_832, "bible", "vanilla RNN 256 over characters"),
    Network("char-lstm", CharLSTM, _TEXT, 355_408, "bible", "embedding 64, LSTM 256 over characters"),
    Network("char-gru", CharGRU, _TEXT, 272_976, "bible", "embedding 64, GRU 256 over characters"),
    Network("alexnet", AlexNet, _LARGE, 61_100_840, None, "AlexNet in one column"),
    Network("vgg16", partial(VGG, 16), _LARGE, 138_357_544, None, "VGG-16"),
    Network("vgg16-bn", partial(VGG, 16, batch_norm=True), _LARGE, 138_365_992, None, "VGG-16, batch normalisation"),
    Network("vgg19", partial(VGG, 19), _LARGE, 143_667_240, None, "VGG-19"),
    Network("vgg19-bn", partial(VGG, 19, batch_norm=True), _LARGE, 143_678_248, None, "VGG-19, batch normalisation"),
    Network("googlenet", GoogLeNet, _LARGE, 6_624_904, None, "GoogLeNet without auxiliary heads, batch normalisation"),
    Network("resnet18", partial(ResNet, 18), _LARGE, 11_689_512, None, "ResNet-18"),
    Network("resnet50", partial(ResNet, 50), _LARGE, 25_557_032, None, "ResNet-50"),
    Network("resnet152", partial(ResNet, 152), _LARGE, 60_192_808, None, "ResNet-152"),
    Network("mobilenetv2", MobileNetV2, _LARGE, 3_504_872, None, "MobileNetV2"),
    Network("densenet121", DenseNet121, _LARGE, 7_978_856, None, "DenseNet-121"),
    Network("squeezenet", SqueezeNet, _LARGE, 1_235_496, None, "SqueezeNet 1.1"),
    Network("unet", UNet, real(1, 128, 128), 31_036_546, None, "U-Net with padding and batch normalisation, width 64"),
    Network("unet-small", partial(UNet, width=16), real(1, 64, 64), 1_942_306, None, "the same, width 16"),
    Network("transformer", Transformer, _TOKENS, 930_570, None, "Transformer encoder over tokens, torch's layers"),
    Network("transformer-written", TransformerWritten, _TOKENS, 930_570, None, "the same, attention written out"),
    Network("seq2seq-lstm", Seq2Seq, _PAIR, 2_552_808, None, "LSTM encoder and decoder with attention"),
    Network("seq2seq-gru", partial(Seq2Seq, "gru"), _PAIR, 2_092_008, None, "GRU encoder and decoder with attention"),
)

"""The reference networks by name."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from gossamer.zoo.char_rnn import CharRNN
from gossamer.zoo.characters import CharGRU, CharLSTM
from gossamer.zoo.edges import Edges
from gossamer.zoo.lenet5 import LeNet5
from gossamer.zoo.lenet5_lecun import LeNet5LeCun
from gossamer.zoo.lenet300 import LeNet300
from gossamer.zoo.mlp_digits import MLPDigits
from gossamer.zoo.resnet20 import ResNet20
from gossamer.zoo.spoken import SpokenGRU, SpokenLSTM
from gossamer.zoo.vgg_small import VGGSmall
from gossamer.zoo.xor import XOR


@dataclass(frozen=True)
class Network:
    """A reference network: its name, how it is made, how many parameters it has, and the data it is for."""

    name: str
    make: Callable[[], nn.Module]
    parameters: int
    data: str | None
    about: str


NETWORKS: tuple[Network, ...] = (
    Network("xor", XOR, 9, "xor", "2-2-1 with ReLU"),
    Network("edges", Edges, 2, None, "convolution with the kernel (1, -1) on 320×280 images"),
    Network("mlp-digits", MLPDigits, 50_826, "digits", "64-256-128-10 for 8×8 digits"),
    Network("lenet300", LeNet300, 266_610, "fashion-mnist", "LeNet-300-100"),
    Network("lenet5", LeNet5, 431_080, "fashion-mnist", "LeNet-5, Caffe form 20-50-500-10"),
    Network("lenet5-lecun", LeNet5LeCun, 61_706, "fashion-mnist", "LeNet-5, LeCun's sizes 6-16-120-84-10"),
    Network("vgg-small", VGGSmall, 584_618, "fashion-mnist", "six convolutions with batch normalisation"),
    Network("resnet20", ResNet20, 269_434, "fashion-mnist", "ResNet-20, width 16"),
    Network("digits-gru", SpokenGRU, 56_202, "spoken-digits", "GRU 128, spoken digits, many to one"),
    Network("digits-lstm", SpokenLSTM, 74_506, "spoken-digits", "LSTM 128, spoken digits, many to one"),
    Network("char-rnn", CharRNN, 106_832, "bible", "vanilla RNN 256 over characters"),
    Network("char-lstm", CharLSTM, 355_408, "bible", "embedding 64, LSTM 256 over characters"),
    Network("char-gru", CharGRU, 272_976, "bible", "embedding 64, GRU 256 over characters"),
)

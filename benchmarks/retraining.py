"""Compress the reference networks with retraining, over several seeds, by the recipes of benchmarks/recipes.

    python benchmarks/retraining.py lenet5-98 lenet300-95 resnet20-half resnet20-quarter

Weights: 98 % zeros in LeNet-5, 95 % in LeNet-300-100, 90 % in the character LSTM and GRU (``char-lstm-90``,
``char-gru-90``). Units, with real shapes: half and a quarter of the multiply-accumulates of the ResNet-20, half of the
hidden units of the character LSTM and GRU (``char-lstm-half``, ``char-gru-half``). Bytes, by training under a price on
every bit: a hundredth and a two-hundredth of the LeNet-5, an eightieth and a hundred-and-fiftieth of the LeNet-300-100
(``lenet5-100``, ``lenet5-200``, ``lenet300-80``, ``lenet300-150``). Few bits: weights of two bits (``vgg-small-2bit``,
``resnet20-2bit``), of one (``vgg-small-binary``), and inputs too (``vgg-small-bnn``). Soft weight sharing
(``lenet300-soft``) prunes while weights gather.

Starts from the committed reference weights and records in benchmarks/results/retraining_<case>.json what
deep_compression.py records, the share of zeros and that of multiply-accumulates. A run that was stopped continues.
"""

from provenance import ROOT
from seeds import Case, main

from gossamer.recipe import Recipe

RECIPES = {path.stem: path for path in (ROOT / "benchmarks" / "recipes").glob("*.toml")}


if __name__ == "__main__":
    main(
        "Pruning with retraining.",
        {name: Case("retraining", name, name.rpartition("-")[0], Recipe.load(path)) for name, path in RECIPES.items()},
    )

"""Prune the reference networks with retraining, over several seeds, by the recipes of benchmarks/recipes.

    python benchmarks/retraining.py lenet5-98 lenet300-95 resnet20-half resnet20-quarter

Weights: 98 % zeros in LeNet-5, 95 % in LeNet-300-100, 90 % in the character LSTM and GRU (``char-lstm-90``,
``char-gru-90``). Units, with real shapes: half and a quarter of the multiply-accumulates of the ResNet-20, half of the
hidden units of the character LSTM and GRU (``char-lstm-half``, ``char-gru-half``). Starts from the committed reference
weights and records in benchmarks/results/retraining_<case>.json what deep_compression.py records, the share of zeros
and that of multiply-accumulates. A run that was stopped continues.
"""

import argparse
from pathlib import Path

import torch
from provenance import ROOT
from seeds import Case, run

from gossamer.recipe import Recipe

RECIPES = ROOT / "benchmarks" / "recipes"


def main() -> None:
    """Run the cases named on the command line, one after another."""
    known = sorted(path.stem for path in RECIPES.glob("*.toml"))
    parser = argparse.ArgumentParser(description="Pruning with retraining.")
    parser.add_argument("cases", nargs="+", choices=known)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "retraining", help="for journals")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for name in given.cases:
        command = f"python benchmarks/retraining.py {name} --seeds {' '.join(map(str, given.seeds))}"
        network = name.rpartition("-")[0]
        case = Case(f"retraining_{name}", network, Recipe.load(RECIPES / f"{name}.toml"), command)
        run(case, given.seeds, given.folder)


if __name__ == "__main__":
    main()

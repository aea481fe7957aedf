"""Compress the reference networks by a built-in recipe over several seeds and record file sizes and test figures.

    python benchmarks/deep_compression.py lenet5 lenet300 char-lstm char-gru

For each network: starts from the committed reference weights, runs the recipe with each seed, and records in
benchmarks/results/deep_compression_<network>.json the commit, machine, command, and per seed the bytes of the
weights-only file and the figures on test data before and after, with their means. Dense bytes are 4 per parameter.
A run that was stopped continues; a seed that is recorded for the same recipe is not run again.
"""

import argparse
from pathlib import Path

import torch
from provenance import ROOT
from seeds import Case, run

from gossamer.recipe import find

RECIPES = {
    "lenet5": "deep-compression",
    "lenet300": "deep-compression",
    "char-lstm": "deep-compression-lstm",
    "char-gru": "deep-compression-gru",
}


def main() -> None:
    """Compress the networks named on the command line, one after another."""
    parser = argparse.ArgumentParser(description="Deep Compression of the reference networks.")
    parser.add_argument("networks", nargs="+", choices=sorted(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "deep_compression", help="for journals")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for network in given.networks:
        command = f"python benchmarks/deep_compression.py {network} --seeds {' '.join(map(str, given.seeds))}"
        case = Case(f"deep_compression_{network}", network, find(RECIPES[network]), command)
        run(case, given.seeds, given.folder)


if __name__ == "__main__":
    main()

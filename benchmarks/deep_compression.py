"""Compress the reference networks by a built-in recipe over several seeds and record file sizes and test figures.

    python benchmarks/deep_compression.py lenet5 lenet300 char-lstm char-gru

For each network: starts from the committed reference weights, runs the recipe with each seed, and records in
benchmarks/results/deep_compression_<network>.json the commit, machine, command, and per seed the bytes of the
weights-only file and the figures on test data before and after, with their means. Dense bytes are 4 per parameter.
A run that was stopped continues; a seed that is recorded for the same recipe is not run again.
"""

from seeds import Case, main

from gossamer.recipe import find

RECIPES = {
    "lenet5": "deep-compression",
    "lenet300": "deep-compression",
    "char-lstm": "deep-compression-lstm",
    "char-gru": "deep-compression-gru",
}


if __name__ == "__main__":
    main(
        "Deep Compression of the reference networks.",
        {network: Case("deep_compression", network, network, find(recipe)) for network, recipe in RECIPES.items()},
    )

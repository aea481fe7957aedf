"""Train the reference networks, each by `gossamer train`, and keep their weights and figures.

    python benchmarks/reference.py lenet5 lenet300

For each name: trains with the committed settings, copies the weights into the package, and records in
benchmarks/results/reference.json the commit, machine, command, seed, and the figures on validation and test data.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from provenance import commit, machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "reference.json"
FOLDERS = [f"src/gossamer/{part}" for part in ("task", "train", "zoo", "datasets")]
"""What bears on training."""
WEIGHTS = ROOT / "src" / "gossamer" / "zoo" / "weights"


def run(name: str, folder: Path, threads: int) -> None:
    """Train one network, resuming if it was stopped, and record it."""
    at = commit(*FOLDERS, ":!src/gossamer/zoo/weights")
    output = folder / f"{name}.safetensors"
    options = [f"zoo:{name}", "--test", "--json", "--threads", str(threads)]
    command = [sys.executable, "-m", "gossamer.cli.train", *options, "-o", str(output)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout)
    del result["weights"]
    shown = " ".join(["gossamer", "train", *options[:3], "-o", output.name])
    entry = {**result, "command": shown, "threads": threads, "commit": at, "machine": machine()}
    WEIGHTS.mkdir(exist_ok=True)
    shutil.copy(output, WEIGHTS / output.name)
    RESULTS.parent.mkdir(exist_ok=True)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[name] = entry
    RESULTS.write_text(json.dumps(dict(sorted(known.items())), indent=2) + "\n")


def main() -> None:
    """Train the networks named on the command line, one after another."""
    parser = argparse.ArgumentParser(description="Train reference networks and record their figures.")
    parser.add_argument("names", nargs="+")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "reference", help="for checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    for name in given.names:
        run(name, given.folder, given.threads)


if __name__ == "__main__":
    main()

"""A fresh process that runs one prepared graph: ``python -m gossamer.targets.worker MODEL.onnx INPUTS.npz THREADS``.

Commands come one per line on standard input: a whole number runs that many times and answers with the nanoseconds of
each run; an empty line or the end of the input ends the process. Every answer is one line of JSON. The first answer,
given unasked, has the memory of the process before the graph was read and at its peak after one run.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import IO

import numpy as np

from gossamer.targets.session import feed, open_prepared


def peak_bytes() -> int:
    """Return the largest resident size of this process so far.

    Linux keeps it per program (``VmHWM``); ``ru_maxrss`` would include the parent from before the program started.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def serve(model: Path, inputs: Path, threads: int, commands: IO[str], answers: IO[str]) -> None:
    """Load, warm up once, then answer commands until they end."""
    with np.load(inputs, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    before = peak_bytes()
    session = open_prepared(model, threads=threads)
    fed = feed(session, arrays)
    session.run(None, fed)
    print(json.dumps({"before": before, "peak": peak_bytes()}), file=answers, flush=True)
    for command in commands:
        if not command.strip():
            return
        taken = []
        for _ in range(int(command)):
            start = time.perf_counter_ns()
            session.run(None, fed)
            taken.append(time.perf_counter_ns() - start)
        print(json.dumps(taken), file=answers, flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.stdin, sys.stdout)

"""One network cut by one tool, in a process of its own: ``python fresh.py TOOL NETWORK`` checks, ``--setting X`` times.

This folder is beside the driver so that ``import torch_pruning`` finds the package, not the benchmark of that name.
"""

import argparse
import importlib
import json
import time
from typing import Any

import torch
from shared import bytes_of, checked, macs, network, said, used

from gossamer.targets.worker import peak_bytes

THREADS = 1


def timed(tool: Any, name: str, setting: float) -> dict[str, Any]:
    """Return the time and the memory of analysis and cut in this fresh process, and the time once more in the warm one.

    The processor's time, threads added up, is disturbed less by what else the machine does.
    """
    before = used()
    model, args = network(name)
    size = bytes_of(model)
    started, worked = time.perf_counter(), time.process_time()
    tool.cut(model, args, setting)
    spent, work = time.perf_counter() - started, time.process_time() - worked
    memory = peak_bytes() - before  # the network itself, and what it takes to build it, count
    model, args = network(name)
    worked = time.process_time()
    tool.cut(model, args, setting)
    warm = time.process_time() - worked
    return {"seconds": spent, "cpu_seconds": work, "warm_cpu_seconds": warm, "memory_ratio": memory / size}


def verdict(tool: Any, name: str) -> dict[str, Any]:
    """Return what the tool makes of a network: what is left, what works, whether its groups are right."""
    model, args = network(name)
    dense = macs(model, args)
    row: dict[str, Any] = {"with": tool.SETTINGS, "macs": dense}
    try:
        row["setting"] = tool.setting_for(model, args, dense)
        row |= checked(tool.cut(model, args, row["setting"]), args, dense)
        row["cut"] = "nothing" if row["macs_left"] == 1.0 else "yes"
    except Exception as error:  # noqa: BLE001  # whatever a tool raises is the result
        row["cut"] = said(error)
    try:
        row["proof"] = tool.proof(*network(name), 0.5)
    except Exception as error:  # noqa: BLE001  # the same
        row["proof"] = said(error)
    return row


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description="Cut one network with one tool.")
    parser.add_argument("tool", choices=("ours", "theirs"))
    parser.add_argument("network")
    parser.add_argument("--setting", type=float, help="what to ask the tool for; its cut is timed")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    tool = importlib.import_module(given.tool)
    if given.setting is None:
        print(json.dumps(verdict(tool, given.network)))
    else:
        print(json.dumps(timed(tool, given.network, given.setting)))


if __name__ == "__main__":
    main()

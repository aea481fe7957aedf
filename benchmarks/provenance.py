"""Where a result comes from: the machine and the commit."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def machine() -> dict[str, Any]:
    """Describe the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": cpu or platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": version("torch"),  # some benchmarks measure processes without it
    }


def commit(*folders: str) -> str:
    """Return the commit the package is at, marked if files in ``folders`` (the package if none are given) differ."""
    dirty = _git("status", "--porcelain", "--", *(folders or ("src/gossamer",)))
    return _git("rev-parse", "--short=12", "HEAD") + ("+changes" if dirty else "")


def _git(*words: str) -> str:
    program = shutil.which("git") or "git"
    return subprocess.run([program, *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

"""Measured energy, where the machine shows it: Linux' powercap interface to RAPL, one counter per socket."""

from collections.abc import Callable
from pathlib import Path

from gossamer.figure import Figure, measured

POWERCAP = Path("/sys/class/powercap")


def counters(powercap: Path = POWERCAP) -> tuple[Path, ...]:
    """Return the readable package counters of RAPL, one per socket; domains inside a package are part of it."""
    found = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        counter = folder / "energy_uj"
        if folder.name.count(":") == 1 and _name(folder).startswith("package") and _readable(counter):
            found.append(folder)
    return tuple(found)


def measure_energy(run: Callable[[], object], powercap: Path = POWERCAP) -> Figure | None:
    """Return the energy that the sockets took while ``run`` ran, all processes of the machine included.

    Returns:
        joules, measured; None where the machine exposes no counter.
    """
    folders = counters(powercap)
    if not folders:
        return None
    before = [_read(folder / "energy_uj") for folder in folders]
    run()
    after = [_read(folder / "energy_uj") for folder in folders]
    total = 0
    for folder, start, end in zip(folders, before, after, strict=True):
        total += end - start if end >= start else end - start + _read(folder / "max_energy_range_uj")
    return measured(total * 1e-6, "J")


def _name(folder: Path) -> str:
    name = folder / "name"
    return name.read_text(encoding="ascii").strip() if _readable(name) else ""


def _readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


def _read(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))

"""What this machine's processor does with 8-bit products, read from ``/proc/cpuinfo``.

x86 without VNNI multiplies bytes with ``vpmaddubsw``, whose sum of two products saturates at 16 bits: 255 * 127 * 2
does not fit, 255 * 64 * 2 does. There a weight may use 7 bits (codes in [-64, 63]) to be exact.
"""

import platform
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8")
_X86 = frozenset({"x86_64", "amd64", "i386", "i686"})


@dataclass(frozen=True)
class Cpu:
    """The processor as far as 8-bit products go.

    Attributes:
        name: its name.
        saturates: whether sums of 8-bit products may saturate at 16 bits.
        why: what that was read from.
    """

    name: str
    saturates: bool
    why: str

    @property
    def weight_bits(self) -> int:
        """The width of weight codes with which 8-bit products are exact here."""
        return 7 if self.saturates else 8


def read_cpu(cpuinfo: Path = CPUINFO, machine: str | None = None) -> Cpu:
    """Return this machine's processor.

    Args:
        cpuinfo: file to read, of the form of ``/proc/cpuinfo``; may be missing.
        machine: architecture; by default that of the running machine.
    """
    machine = (machine or platform.machine()).lower()
    fields = _fields(cpuinfo)
    name = fields.get("model name", platform.processor() or machine)
    if machine not in _X86:
        return Cpu(name, saturates=False, why=f"{machine} adds 8-bit products in 32 bits")
    flags = set(fields.get("flags", "").split())
    found = [flag for flag in _DOT_PRODUCTS if flag in flags]
    if found:
        return Cpu(name, saturates=False, why=f"has {', '.join(found)}")
    why = "has none of avx512_vnni, avx_vnni" if flags else f"{cpuinfo} does not say what it has"
    return Cpu(name, saturates=True, why=why)


def _fields(cpuinfo: Path) -> dict[str, str]:
    if not cpuinfo.is_file():
        return {}
    fields: dict[str, str] = {}
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields

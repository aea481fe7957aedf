"""Targets: what runs an artifact, and what it costs there.

Names are imported when they are first used: running an artifact imports no torch, exporting a model does.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gossamer.targets.agreement import Agreement, agreements
    from gossamer.targets.calls import arrays_of
    from gossamer.targets.choice import Choice, choose
    from gossamer.targets.convert import Runner, compare, frozen_graph, graph_of, lower_frozen, to_onnx
    from gossamer.targets.cpu import Cpu, read_cpu
    from gossamer.targets.graph import assemble, fill, graph_bytes, lower_artifact
    from gossamer.targets.horowitz import Energy, energy
    from gossamer.targets.integers import why_in_floats, why_no_groups
    from gossamer.targets.lower import Lowered
    from gossamer.targets.onnx_runtime import Measurement, OnnxRuntime, Target
    from gossamer.targets.optimized import not_integer, operators_of
    from gossamer.targets.processes import Latency, Memory, Run, Timing, measure
    from gossamer.targets.profiling import Profile, profile
    from gossamer.targets.rapl import measure_energy
    from gossamer.targets.reason import Reason
    from gossamer.targets.session import open_session, run_session
    from gossamer.targets.static_loop import why_no_static
    from gossamer.targets.work import Work, count_work, total_macs

__all__ = [
    "Agreement",
    "Choice",
    "Cpu",
    "Energy",
    "Latency",
    "Lowered",
    "Measurement",
    "Memory",
    "OnnxRuntime",
    "Profile",
    "Reason",
    "Run",
    "Runner",
    "Target",
    "Timing",
    "Work",
    "agreements",
    "arrays_of",
    "assemble",
    "choose",
    "compare",
    "count_work",
    "energy",
    "fill",
    "frozen_graph",
    "graph_bytes",
    "graph_of",
    "lower_artifact",
    "lower_frozen",
    "measure",
    "measure_energy",
    "not_integer",
    "open_session",
    "operators_of",
    "profile",
    "read_cpu",
    "run_session",
    "to_onnx",
    "total_macs",
    "why_in_floats",
    "why_no_groups",
    "why_no_static",
]

_HOME = {
    name: module
    for module, names in {
        "agreement": ("Agreement", "agreements"),
        "calls": ("arrays_of",),
        "choice": ("Choice", "choose"),
        "convert": ("Runner", "compare", "frozen_graph", "graph_of", "lower_frozen", "to_onnx"),
        "cpu": ("Cpu", "read_cpu"),
        "graph": ("assemble", "fill", "graph_bytes", "lower_artifact"),
        "horowitz": ("Energy", "energy"),
        "integers": ("why_in_floats", "why_no_groups"),
        "lower": ("Lowered",),
        "onnx_runtime": ("Measurement", "OnnxRuntime", "Target"),
        "optimized": ("not_integer", "operators_of"),
        "processes": ("Latency", "Memory", "Run", "Timing", "measure"),
        "profiling": ("Profile", "profile"),
        "rapl": ("measure_energy",),
        "reason": ("Reason",),
        "session": ("open_session", "run_session"),
        "static_loop": ("why_no_static",),
        "work": ("Work", "count_work", "total_macs"),
    }.items()
    for name in names
}


def __getattr__(name: str) -> Any:
    """Import ``name`` from the module it lives in."""
    if name not in _HOME:
        raise AttributeError(f"module 'gossamer.targets' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"gossamer.targets.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)

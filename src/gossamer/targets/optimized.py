"""What the runtime made of a graph: which operator multiplies each weight after its own rewriting."""

import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import onnx

from gossamer.targets.cpu import Cpu
from gossamer.targets.reason import Reason
from gossamer.targets.session import open_session
from gossamer.targets.wiring import all_nodes

INTEGER_OPERATORS = frozenset(
    {
        *("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "MatMulInteger", "ConvInteger"),
        *("DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulNBits"),
    }
)
"""Operators of ONNX Runtime that multiply bytes, or smaller codes, and add in 32 bits."""


def optimized_graph(proto: onnx.ModelProto, *, threads: int = 1, cpu: Cpu | None = None) -> onnx.ModelProto:
    """Return ``proto`` as ONNX Runtime runs it on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(proto, threads=threads, cpu=cpu, optimized=path)
        return onnx.load(path)


def operators_of(proto: onnx.ModelProto, sites: Iterable[str], *, cpu: Cpu | None = None) -> Mapping[str, str]:
    """Return, for each of ``sites``, the operators that read its weight in the graph the runtime runs.

    Several operators are joined by commas; a weight that the runtime merged away gives an empty string.
    """
    graph = optimized_graph(proto, cpu=cpu).graph
    found: dict[str, list[str]] = {site: [] for site in sites}
    for node in all_nodes(graph.node):
        for name in node.input:
            if name.endswith((":scale", ":zero")):
                continue
            for site in sites_of(name, found):
                if node.op_type not in found[site]:
                    found[site].append(node.op_type)
    return {site: ",".join(operators) for site, operators in found.items()}


def not_integer(proto: onnx.ModelProto, sites: Iterable[str], *, cpu: Cpu | None = None) -> list[Reason]:
    """Return a reason for each of ``sites`` that the runtime does not multiply in integers on this machine."""
    return [
        Reason(site, f"ONNX Runtime reads it in {operators or 'no operator of its own'}")
        for site, operators in operators_of(proto, sites, cpu=cpu).items()
        if not operators or not set(operators.split(",")) <= INTEGER_OPERATORS
    ]


def sites_of(name: str, known: Collection[str]) -> list[str]:
    """Return the sites whose values the constant ``name`` holds: one, or several that were joined by ``+``."""
    stem = name.partition(":")[0]
    if "+" in stem and all(part in known for part in stem.split("+")):
        return stem.split("+")
    matching = [site for site in known if name == site or name.startswith((f"{site}:", f"{site}_", f"{site}#"))]
    return [max(matching, key=len)] if matching else []

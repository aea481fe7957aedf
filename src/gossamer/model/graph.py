"""The graph of a model: its operators with module, source line, shapes, multiply-accumulates and activation bytes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unseen:
    """Something the graph could not see: what, where (module path or source line) and why."""

    what: str
    where: str
    why: str


@dataclass(frozen=True, slots=True)
class Node:
    """One operator call.

    Attributes:
        name: unique name in the graph.
        op: operator, as in ``aten.linear``.
        module: path of the module that called it.
        source: ``file:line`` of the user's code, or empty.
        inputs: names of the nodes whose outputs it reads.
        input_shapes: shapes of the tensors it reads, parameters included.
        output_shapes: shapes of the tensors it makes.
        sites: names of the parameters it reads.
        macs: multiply-accumulates; None where there is no rule.
        bytes: size of the output in bytes, 0 for views.
    """

    name: str
    op: str
    module: str
    source: str
    inputs: tuple[str, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    sites: tuple[str, ...]
    macs: int | None
    bytes: int


@dataclass(frozen=True)
class Graph:
    """All operators in the order of execution.

    Attributes:
        nodes: the operator calls.
        unseen: what could not be seen, with reasons.
        unused: parameters that no operator reads.
        peak_bytes: largest sum of activations alive at once; None if the graph was not seen.
        outputs: names of the nodes whose outputs the model returns.
        inputs: names under which nodes read the inputs of the model.
    """

    nodes: tuple[Node, ...] = ()
    unseen: tuple[Unseen, ...] = ()
    unused: tuple[str, ...] = ()
    peak_bytes: int | None = None
    outputs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()

    @property
    def macs(self) -> int | None:
        """Total multiply-accumulates of one forward pass of the example; None if the graph was not seen."""
        return sum(node.macs or 0 for node in self.nodes) if self.nodes else None

    @property
    def activation_bytes(self) -> int | None:
        """Total bytes written by all operators; None if the graph was not seen."""
        return sum(node.bytes for node in self.nodes) if self.nodes else None

"""Which batch norms can be folded into the layer before them, read from the graph."""

from collections import Counter

from gossamer.model.edits import Fold
from gossamer.model.graph import Node
from gossamer.model.subject import Subject
from gossamer.model.surgery import why_no_fold

_LAYERS = frozenset(
    {
        "aten.linear",
        "aten.conv1d",
        "aten.conv2d",
        "aten.conv3d",
        "aten.conv_transpose1d",
        "aten.conv_transpose2d",
        "aten.conv_transpose3d",
    }
)


def foldable(subject: Subject) -> tuple[Fold, ...]:
    """Return the folds of all batch norms that follow a linear layer or a convolution and nothing else does.

    Both run once, the layer's output is used by the norm alone, and the layer's weight is unconstrained and its own.
    A folded model is the same function in evaluation mode; it no longer updates batch statistics when it trains.
    """
    graph = subject.graph
    nodes = {node.name: node for node in graph.nodes}
    readers = Counter(name for node in graph.nodes for name in node.inputs) + Counter(graph.outputs)
    runs = Counter((node.op, node.module) for node in graph.nodes)
    found = []
    for norm in graph.nodes:
        layer = nodes.get(norm.inputs[0]) if norm.op == "aten.batch_norm" and norm.inputs else None
        if layer is None or layer.op not in _LAYERS or readers[layer.name] > 1:
            continue
        once = runs[layer.op, layer.module] == 1 == runs[norm.op, norm.module]
        if once and _owns_its_weight(subject, layer):
            fold = Fold("batch_norm", layer.module, norm=norm.module)
            if why_no_fold(subject.model, fold) is None:
                found.append(fold)
    return tuple(found)


def _owns_its_weight(subject: Subject, layer: Node) -> bool:
    name = f"{layer.module}.weight" if layer.module else "weight"
    site = subject.sites.get(name)
    return site is not None and len(site.owners) == 1 and layer.sites[:1] == (name,)

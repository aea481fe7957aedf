"""Parts of a model that are rounded together: layers with what follows them, and blocks of branches.

A layer's part reaches to the activation function behind it, with a batch norm between them (Nagel et al. 2020, section
3.5). A block is a module whose own forward adds up two branches or joins several (Li et al., "BRECQ", ICLR 2021, arXiv
2102.05426, section 3.2), or a module of the same class, for blocks that change the shape often go without the addition.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from gossamer.model import Example, Node, Site, Subject, plain_copy
from gossamer.model.copying import copy_inputs

_ADDITIONS = frozenset({"aten.add", "aten.add_"})
_JOINS = frozenset({"aten.cat", "aten.concat"})
_MOST = 8
"""Layers of a block: with more it is a network whose forward joins branches, not one of its blocks."""
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
_LAYERS = {nn.Linear: 0, nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}


@dataclass(frozen=True)
class Unit:
    """Modules that run one after another, and what is done to what they make.

    Attributes:
        stages: paths of the modules.
        sites: weights in them that are rounded, each with the path of its layer.
        activation: what acts on the outputs, or None for nothing.
        calls: how often they run for one batch.
        batched: dimensions of an input that has one for samples.
    """

    stages: tuple[str, ...]
    sites: tuple[tuple[str, str], ...]
    activation: Callable[[Tensor], Tensor] | None = None
    calls: int = 1
    batched: int | None = None


def layer_path(subject: Subject, site: Site) -> str | None:
    """Return the path of the one linear layer or convolution that owns ``site``, or None if there is none."""
    modules = {id(subject.model.get_submodule(owner.module)) for owner in site.owners}
    owner = site.owners[0]
    module = subject.model.get_submodule(owner.module)
    alone = len(modules) == 1 and owner.attribute == "weight"
    return owner.module if alone and isinstance(module, tuple(_LAYERS)) else None


def ordered_calls(model: nn.Module, examples: Sequence[Example], paths: Sequence[str]) -> Counter[str]:
    """Return how often each of the modules at ``paths`` runs on the first example, in the order of their first calls.

    Modules that do not run are left out.
    """
    calls: Counter[str] = Counter()
    handles = []
    for path in paths:

        def count(_module: nn.Module, _args: object, path: str = path) -> None:
            calls[path] += 1

        handles.append(model.get_submodule(path).register_forward_pre_hook(count))
    args, kwargs, _ = examples[0]
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def layer_unit(subject: Subject, site: str, path: str, calls: int) -> Unit:
    """Return the unit of one layer, with the batch norm and the activation function that alone follow it."""
    module = subject.model.get_submodule(path)
    spatial = next(count for kind, count in _LAYERS.items() if isinstance(module, kind))
    batched = spatial + 2
    sites = ((site, path),)
    node = _only(subject, lambda node: site in node.sites) if calls == 1 else None
    if node is None or node.module != path:
        return Unit((path,), sites, None, calls, batched)
    stages: tuple[str, ...] = (path,)
    after = _reader(subject, node)
    if after is not None and after.op == "aten.batch_norm" and after.module and _once(subject, after):
        stages = (path, after.module)
        after = _reader(subject, after)
    kind = after.op.removeprefix("aten.").removesuffix("_") if after is not None else ""
    return Unit(stages, sites, _ACTIVATIONS.get(kind), calls, batched)


def block_units(subject: Subject, layers: Mapping[str, str]) -> tuple[Unit, ...]:
    """Return the innermost blocks that hold some of ``layers``, but not many, and can be run by themselves.

    Args:
        subject: whose graph tells.
        layers: path of the layer of each site.
    """
    joining = {node.module for node in subject.graph.nodes if node.op in _JOINS or _adds(node)} - {""}
    kinds = {type(subject.model.get_submodule(path)) for path in joining}
    found = []
    for path in (path for path, module in subject.model.named_modules() if path and type(module) in kinds):
        inside = tuple((site, layer) for site, layer in layers.items() if layer.startswith(f"{path}."))
        if 1 < len(inside) <= _MOST and _of_images(subject, path):
            found.append(Unit((path,), inside))
    fit = _of_one_tensor(subject, [unit.stages[0] for unit in found])
    found = [unit for unit in found if unit.stages[0] in fit]
    paths = [unit.stages[0] for unit in found]
    return tuple(u for u in found if not any(other.startswith(f"{u.stages[0]}.") for other in paths))


def _adds(node: Node) -> bool:
    return node.op in _ADDITIONS and len(node.inputs) == 2


def _of_images(subject: Subject, path: str) -> bool:
    """Whether the module at ``path`` has convolutions of batches in it, so that its first dimension counts samples.

    It must be given one tensor and run once, with nothing recurrent in it, which is known from the graph: whatever
    enters is one node, and every layer inside runs once.
    """
    nodes = [node for node in subject.graph.nodes if f"{node.module}.".startswith(f"{path}.")]
    names = {node.name for node in nodes}
    made = {node.name for node in subject.graph.nodes} | set(subject.graph.inputs)
    entering = {name for node in nodes for name in node.inputs if name in made and name not in names}
    read = {name for node in subject.graph.nodes if node.name not in names for name in node.inputs}
    leaving = names & (read | set(subject.graph.outputs))
    convolutions = [node for node in nodes if node.op in {"aten.conv1d", "aten.conv2d", "aten.conv3d"}]
    runs = Counter((node.op, node.module) for node in convolutions)
    batched = all(len(node.input_shapes[0]) == int(node.op[-2]) + 2 for node in convolutions)
    batched &= all(node.output_shapes[0][0] == node.input_shapes[0][0] for node in nodes if node.op in _JOINS)
    alone = len(entering) == 1 == len(leaving) and all(count == 1 for count in runs.values())
    return bool(convolutions) and batched and alone


def _of_one_tensor(subject: Subject, paths: Sequence[str]) -> set[str]:
    """Return which of the modules are given one tensor, first, and make one, on the example inputs."""
    fit = set()

    def note(path: str, args: tuple[object, ...], kwargs: dict[str, object], made: object) -> None:
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        first = next(iter((*args, *kwargs.values())), None)
        if isinstance(made, Tensor) and len(tensors) == 1 and first is tensors[0]:
            fit.add(path)

    model = plain_copy(subject).eval()
    for path in paths:
        model.get_submodule(path).register_forward_hook(
            lambda _module, args, kwargs, made, path=path: note(path, args, kwargs, made), with_kwargs=True
        )
    args, kwargs = copy_inputs((subject.args, subject.kwargs))
    with torch.no_grad():
        model(*args, **kwargs)
    return fit


def _reader(subject: Subject, node: Node) -> Node | None:
    if node.name in subject.graph.outputs:
        return None
    return _only(subject, lambda other: node.name in other.inputs)


def _only(subject: Subject, which: Callable[[Node], bool]) -> Node | None:
    found = [node for node in subject.graph.nodes if which(node)]
    return found[0] if len(found) == 1 else None


def _once(subject: Subject, node: Node) -> bool:
    return sum(other.module == node.module for other in subject.graph.nodes) == 1

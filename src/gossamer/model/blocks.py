"""Blocks: modules that can be dropped, and those among them that add what their weights make to their own input.

A network that is a chain of residual blocks is a sum over many short paths, and loses little with any one block (Veit,
Wilber and Belongie, "Residual Networks Behave Like Ensembles of Relatively Shallow Networks", NIPS 2016, arXiv
1605.06431). Such blocks are found in the graph: from input to output a value must get through without meeting a weight,
and on its way something that met one must be added to it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from gossamer.errors import ModelError, PatternError
from gossamer.model.copying import copy_inputs
from gossamer.model.edits import Drop
from gossamer.model.graph import Graph, Node
from gossamer.model.run import run_example
from gossamer.model.subject import Subject, plain_copy
from gossamer.model.surgery import perform

_ADDITIONS = frozenset({"aten.add", "aten.add_"})


@dataclass(frozen=True, slots=True)
class Block:
    """A module that can be dropped.

    Attributes:
        path: where it is; the first of its paths if it has several.
        sites: the weights that it owns, those included that modules outside own too.
        gone: the weights that go with it.
        parameters: how many values of parameters, weights or not, go with it.
        macs: multiply-accumulates that go with it; None if the graph was not seen.
    """

    path: str
    sites: tuple[str, ...]
    gone: tuple[str, ...]
    parameters: int
    macs: int | None


def find_blocks(subject: Subject, patterns: Iterable[str] = ()) -> tuple[Block, ...]:
    """Return the blocks of ``subject`` that can be dropped, in the order of its modules; none lies in another.

    Args:
        subject: left untouched.
        patterns: glob patterns of module paths. With some, the outermost modules that they name and that can be
            dropped; with none, the innermost residual blocks. Blocks own a weight.

    Raises:
        PatternError: a pattern names no module that can be dropped; says why not.
    """
    asked = tuple(patterns)
    paths = _paths(subject.model)
    owning = [name for name, every in paths.items() if name and _owned(subject, every)]
    reasons = _reasons(subject, _watched(subject))
    if asked:
        for pattern in asked:
            _check(pattern, owning, paths, reasons)
        named = [name for name in owning if any(fnmatchcase(p, one) for p in paths[name] for one in asked)]
    else:
        named = [name for name in owning if reasons[name] is None and _residual(subject, paths[name])]
    able = [name for name in named if (reasons[name] or _why_it_stays(subject, name)) is None]
    if asked:
        able = [name for name in able if not any(_inside(name, (other,)) for other in able if other != name)]
    else:
        able = [name for name in able if not any(_inside(other, (name,)) for other in able if other != name)]
    return tuple(_block(subject, name, paths[name]) for name in able)


def why_no_drop(subject: Subject, path: str) -> str | None:
    """Return why the module at ``path`` cannot be dropped, or None if it can.

    It can where the example inputs run it once, with a tensor as its first input, and it returns one tensor of the
    same shape and dtype, and the model still runs without it and still has parameters.
    """
    try:
        module = subject.model.get_submodule(path)
    except AttributeError:
        return f"{type(subject.model).__name__} has no module {path!r}"
    name = next(name for name, found in subject.model.named_modules() if found is module)
    return _reasons(subject, _watched(subject))[name] or _why_it_stays(subject, name)


@dataclass(frozen=True, slots=True)
class _Call:
    """What went into one call of a module first, and what came out: a tensor's dtype and shape, else its type."""

    given: str
    made: str
    tensors: bool


def _watched(subject: Subject) -> dict[str, list[_Call]]:
    """Return the calls of every module of ``subject``, by its first path, when the example inputs run."""
    model = plain_copy(subject)
    calls: dict[str, list[_Call]] = {name: [] for name, _ in model.named_modules()}
    for name, module in model.named_modules():

        def see(_module: nn.Module, args: Any, made: Any, calls: list[_Call] = calls[name]) -> None:
            given = args[0] if args else None
            calls.append(_Call(_form(given), _form(made), isinstance(given, Tensor) and isinstance(made, Tensor)))

        module.register_forward_hook(see)
    run_example(model, *copy_inputs((subject.args, subject.kwargs)))
    return calls


def _form(value: Any) -> str:
    if isinstance(value, Tensor):  # a nested one, which torch's encoder makes of a padded batch, has no shape
        shape = "nested" if value.is_nested else tuple(value.shape)
        return f"{str(value.dtype).removeprefix('torch.')} {shape}"
    return "nothing" if value is None else type(value).__name__


def _reasons(subject: Subject, calls: Mapping[str, list[_Call]]) -> dict[str, str | None]:
    paths = _paths(subject.model)
    return {name: _reason(subject, name, paths[name], seen) for name, seen in calls.items()}


def _reason(subject: Subject, name: str, paths: tuple[str, ...], calls: list[_Call]) -> str | None:
    if not name:
        return "the model itself cannot be dropped, only a module inside it"
    if len(calls) != 1:
        return "the example inputs never run it" if not calls else f"it runs {len(calls)} times"
    (call,) = calls
    if not call.tensors:
        return f"it makes {call.made} of {call.given}, and only one tensor made of one can be passed by"
    if call.given != call.made:
        return f"it makes {call.made} of {call.given}, so its input cannot take the place of its output"
    if not _staying(subject, paths):
        return "the model has no other parameters"
    return None


def _why_it_stays(subject: Subject, name: str) -> str | None:
    """Return why the model does not run without the module at ``name``, or None if it does."""
    model = plain_copy(subject)
    perform(model, Drop(name))
    try:
        run_example(model, *copy_inputs((subject.args, subject.kwargs)))
    except ModelError as error:
        return f"the model does not run without it: {error.message}"
    return None


def _check(
    pattern: str, owning: Iterable[str], paths: Mapping[str, tuple[str, ...]], reasons: Mapping[str, str | None]
) -> None:
    """Refuse a pattern (other than a plain ``*``) that names no module that can be dropped."""
    named = [name for name in owning if any(fnmatchcase(path, pattern) for path in paths[name])]
    if pattern == "*" or any(reasons[name] is None for name in named):
        return
    if named:
        raise PatternError(f"pattern {pattern!r} names nothing that can be dropped: {named[0]}: {reasons[named[0]]}")
    raise PatternError(f"pattern {pattern!r} matches no module that owns a weight")


def _paths(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return every path of each module, by the first."""
    every: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        every.setdefault(id(module), []).append(path)
    return {paths[0]: tuple(paths) for paths in every.values()}


def _inside(path: str, paths: Iterable[str]) -> bool:
    """Whether ``path`` is one of ``paths`` or lies in one."""
    return any(path == outer or path.startswith(f"{outer}.") for outer in paths)


def _owned(subject: Subject, paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        name for name, site in subject.sites.items() if any(_inside(owner.module, paths) for owner in site.owners)
    )


def _staying(subject: Subject, paths: tuple[str, ...]) -> set[int]:
    """Return the ids of the parameters that are held outside the module at ``paths``."""
    every = subject.model.named_modules(remove_duplicate=False)
    outside = [module for path, module in every if not _inside(path, paths)]
    return {id(value) for module in outside for value in module.parameters(recurse=False)}


def _block(subject: Subject, name: str, paths: tuple[str, ...]) -> Block:
    sites = _owned(subject, paths)
    gone = tuple(site for site in sites if all(_inside(owner.module, paths) for owner in subject.sites[site].owners))
    module = subject.model.get_submodule(name)
    staying = _staying(subject, paths)
    values = sum(value.numel() for value in module.parameters() if id(value) not in staying)
    nodes = [node.macs or 0 for node in subject.graph.nodes if _inside(node.module, paths)]
    return Block(name, sites, gone, values, None if subject.graph.macs is None else sum(nodes))


def _residual(subject: Subject, paths: tuple[str, ...]) -> bool:
    """Whether the module at ``paths`` adds what its weights make to what came in, and ends without another weight."""
    graph = subject.graph
    inside = {node.name: node for node in graph.nodes if _inside(node.module, paths)}
    entering = _entering(graph, inside)
    free, weighted, summed = set(entering), set[str](), set[str]()
    for node in inside.values():
        if any(name in subject.sites for name in node.sites):
            weighted.add(node.name)
            continue
        if weighted.intersection(node.inputs):
            weighted.add(node.name)
        if summed.intersection(node.inputs) or _adds(node, free, weighted):
            summed.add(node.name)
        if free.intersection(node.inputs):
            free.add(node.name)
    read = {name for node in graph.nodes if node.name not in inside for name in node.inputs} | set(graph.outputs)
    return bool(summed & read)


def _entering(graph: Graph, inside: Mapping[str, Node]) -> set[str]:
    """Return what the nodes ``inside`` read that others made; parameters and buffers are not among it."""
    made = {node.name for node in graph.nodes if node.name not in inside} | set(graph.inputs)
    return {name for node in inside.values() for name in node.inputs if name in made}


def _adds(node: Node, free: set[str], weighted: set[str]) -> bool:
    ways = ((one, other) for one in node.inputs for other in node.inputs if one != other)
    return node.op in _ADDITIONS and any(one in free and other in weighted for one, other in ways)

"""Tracing: from a module to its graph through ``torch.export``."""

import gc
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from gossamer.model.graph import Graph, Node, Unseen
from gossamer.model.macs import Call, macs_of
from gossamer.model.opaque import make_opaque, padded_sequences
from gossamer.model.site import find_sites

_FAILURES = (
    RuntimeError,
    TypeError,
    ValueError,
    AttributeError,
    NotImplementedError,
    LookupError,
    AssertionError,
    ArithmeticError,
)
"""What ``torch.export`` raises on a model it cannot follow; it has no base class of its own."""

_TORCH = str(Path(torch.__file__).parent)
_FRAME = re.compile(r'File "(.+?)", line (\d+)')
_LARGE = 1 << 26
"""Bytes of weights from which the time of a collection does not matter."""
_BLOCKS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")


def trace(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Graph:
    """Return the graph of ``model``, a throwaway plain copy, on example inputs; never fails.

    What cannot be seen is listed in the graph's ``unseen`` with the reason; where tracing fails as a whole, that is
    the only entry and the graph is empty.
    """
    names = {name: site.name for site in find_sites(model, every=True).values() for name in site.names}
    program = exported(model, args, kwargs)
    graph = Graph(unseen=(program,)) if isinstance(program, Unseen) else _Walk(names).graph(program)
    release(model)
    return graph


def release(model: nn.Module) -> None:
    """Give back the memory of a throwaway copy at once: a traced graph is full of cycles that hold its weights."""
    freed = 0
    for tensor in (*model.parameters(), *model.buffers()):
        storage = tensor.untyped_storage()
        freed += storage.nbytes()
        if storage.resizable():
            storage.resize_(0)
        else:  # a lazy copy: its memory is another's too
            tensor.data = tensor.new_empty(0)
    if freed > _LARGE:
        gc.collect()  # the graph of a large model is large too


def exported(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> "torch.export.ExportedProgram | Unseen":
    """Return ``model``, a throwaway plain copy, as ``torch.export`` sees it in evaluation mode, or why it cannot."""
    model.eval()
    make_opaque(model)
    try:
        with padded_sequences(), _quiet():
            return torch.export.export(model, args, dict(kwargs), strict=False)
    except _FAILURES as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return Unseen(type(model).__name__, _place(error), f"torch.export: {reason}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Trace without torch's warnings, logs and prints, and without the fused kernels that hide what they do."""
    fast, logged = torch.backends.mha.get_fastpath_enabled(), logging.root.manager.disable
    torch.backends.mha.set_fastpath_enabled(value=False)
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logged)
        torch.backends.mha.set_fastpath_enabled(fast)


def _place(error: BaseException) -> str:
    """Return the innermost line of the user's code in the traceback of ``error``."""
    where, trail = "", error.__traceback__
    while trail is not None:
        file = trail.tb_frame.f_code.co_filename
        if not file.startswith((_TORCH, str(Path(__file__).parent), "<")):
            where = f"{file}:{trail.tb_lineno}"
        trail = trail.tb_next
    return where


@dataclass
class _Walk:
    """One walk over an exported program."""

    names: Mapping[str, str]
    nodes: list[Node] = field(default_factory=list)
    unseen: list[Unseen] = field(default_factory=list)
    read: dict[fx.Node, tuple[str, ...]] = field(default_factory=dict)
    constant: set[fx.Node] = field(default_factory=set)
    base: dict[fx.Node, fx.Node] = field(default_factory=dict)
    bytes: dict[fx.Node, int] = field(default_factory=dict)
    order: list[tuple[fx.Node, list[fx.Node]]] = field(default_factory=list)

    def graph(self, program: torch.export.ExportedProgram) -> Graph:
        """Return the graph of ``program``."""
        signature = program.graph_signature
        lifted = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        for node in program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, lifted.get(node.name))
        inputs = tuple(n.name for n in program.graph.nodes if n.op == "placeholder" and n.name not in lifted)
        self._walk(program.graph_module, {})
        used = {site for node in self.nodes for site in node.sites}
        unused = tuple(name for name in dict.fromkeys(self.names.values()) if name not in used)
        outputs = tuple(given.name for node, given_all in self.order if node.op == "output" for given in given_all)
        return Graph(tuple(self.nodes), tuple(self.unseen), unused, self._peak(), outputs, inputs)

    def _placeholder(self, node: fx.Node, name: str | None) -> None:
        self.base[node] = node
        self.bytes[node] = 0 if name is not None else _size(node.meta.get("val"))
        if name is not None:
            self.constant.add(node)
            self.read[node] = (self.names[name],) if name in self.names else ()

    def _walk(self, module: fx.GraphModule, outer: Mapping[fx.Node, fx.Node]) -> None:
        """Walk one graph; ``outer`` maps placeholders of a block to the nodes outside that it is given."""
        for inside, outside in outer.items():
            self.base[inside] = self.base[outside]
            self.bytes[inside] = 0
            self.read[inside] = self.read.get(outside, ())
            if outside in self.constant:
                self.constant.add(inside)
        for node in module.graph.nodes:
            if node.op == "call_function":
                self._call(module, node)
            elif node.op == "get_attr":
                self.base[node], self.bytes[node] = node, 0
                self.constant.add(node)
            elif node.op == "output":
                self.order.append((node, node.all_input_nodes))

    def _call(self, module: fx.GraphModule, node: fx.Node) -> None:
        inputs = node.all_input_nodes
        sites = tuple(dict.fromkeys(name for given in inputs for name in self.read.get(given, ())))
        if inputs and all(given in self.constant for given in inputs):
            self.constant.add(node)
            self.read[node] = sites
        aliased = _aliased(node)
        self.base[node] = self.base.get(aliased, node) if aliased is not None else node
        self.bytes[node] = 0 if aliased is not None else _size(node.meta.get("val"))
        if any(given.op == "get_attr" and isinstance(attribute_of(module, given), fx.GraphModule) for given in inputs):
            self._block(module, node)
            return
        self.order.append((node, inputs))
        if isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001  # the type has no public name
            self._record(node, inputs, sites)

    def _record(self, node: fx.Node, inputs: list[fx.Node], sites: tuple[str, ...]) -> None:
        operator = operator_of(node)
        call = Call(tuple(_plain(arg) for arg in node.args), next(iter(shapes_of(node.meta.get("val"))), ()))
        macs = macs_of(operator, call)
        source = source_of(node)
        if macs is None and (not inputs or node in self.constant or _counts_nothing(node)):
            macs = 0
        if macs is None:
            reads = f"reads {', '.join(sites)} and " if sites else ""
            self.unseen.append(Unseen(operator, source, f"{reads}has no rule for its cost"))
        shapes = tuple(shape for given in inputs for shape in shapes_of(given.meta.get("val")))
        self.nodes.append(
            Node(
                node.name,
                operator,
                calling_module(node),
                source,
                tuple(given.name for given in inputs),
                shapes,
                tuple(shapes_of(node.meta.get("val"))),
                sites,
                macs,
                self.bytes[node],
            )
        )

    def _block(self, module: fx.GraphModule, node: fx.Node) -> None:
        """Walk into a block (``no_grad``, ``autocast``); other blocks run zero or more times and are not seen."""
        target = str(getattr(node.target, "name", lambda: node.target)())
        blocks = [given for given in node.all_input_nodes if isinstance(attribute_of(module, given), fx.GraphModule)]
        if not any(name in target for name in _BLOCKS) or len(blocks) != 1:
            self.unseen.append(Unseen(target, source_of(node), "how often its block runs depends on the data"))
            self.order.append((node, node.all_input_nodes))
            return
        block = attribute_of(module, blocks[0])
        given = [arg for arg in node.args if isinstance(arg, fx.Node) and arg is not blocks[0]]
        places = [inside for inside in block.graph.nodes if inside.op == "placeholder"]
        self._walk(block, dict(zip(places, given, strict=True)))

    def _peak(self) -> int:
        """Return the largest sum of activations alive at once, each from its making to its last use."""
        last: dict[fx.Node, int] = {}
        for step, (node, inputs) in enumerate(self.order):
            for used in (node, *inputs):
                last[self.base.get(used, used)] = step
        dying: dict[int, list[fx.Node]] = {}
        for held, step in last.items():
            dying.setdefault(step, []).append(held)
        started = {node: self.bytes[node] for node in self.base if node.op == "placeholder" and node in last}
        alive = peak = sum(started.values())
        for step, (node, _) in enumerate(self.order):
            alive += self.bytes.get(node, 0)
            peak = max(peak, alive)
            alive -= sum(self.bytes.get(held, 0) for held in dying.get(step, ()))
        return peak


def attribute_of(module: fx.GraphModule, node: fx.Node) -> Any:
    """Return the attribute that a ``get_attr`` node reads, None for other nodes."""
    return getattr(module, str(node.target), None) if node.op == "get_attr" else None


def operator_of(node: fx.Node) -> str:
    """Return the name of the operator that ``node`` calls, as in ``aten.linear``."""
    name = str(node.target._schema.name) if isinstance(node.target, torch._ops.OpOverload) else str(node.target)  # noqa: SLF001
    return name.replace("::", ".")


def _counts_nothing(node: fx.Node) -> bool:
    """Whether the operator works element by element, adds up or compares, or only looks at its input differently."""
    target: Any = node.target
    plain = {torch.Tag.pointwise, torch.Tag.reduction, torch.Tag.view_copy} & set(target.tags)
    return bool(plain) or _aliased(node) is not None


def _aliased(node: fx.Node) -> fx.Node | None:
    """Return the input that the output of ``node`` shares memory with."""
    target: Any = node.target
    first = next((arg for arg in node.args if isinstance(arg, fx.Node)), None)
    if not isinstance(target, torch._ops.OpOverload):  # noqa: SLF001
        return first  # getitem
    returns = target._schema.returns  # noqa: SLF001
    return first if returns and returns[0].alias_info is not None else None


def calling_module(node: fx.Node) -> str:
    """Return the path of the innermost module that ``node`` was called in."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def source_of(node: fx.Node) -> str:
    """Return ``file:line`` of the user's code that called ``node``, or nothing where only torch's own is known."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [f"{file}:{line}" for file, line in frames if not file.startswith(_TORCH)]
    return own[-1] if own else ""


def _plain(arg: Any) -> Any:
    if isinstance(arg, fx.Node):
        return next(iter(shapes_of(arg.meta.get("val"))), ())
    return [_plain(item) for item in arg] if isinstance(arg, list | tuple) else arg


def shapes_of(value: Any) -> Iterator[tuple[int, ...]]:
    """Yield the shapes of the tensors in a value of the graph."""
    for tensor in _tensors(value):
        yield tuple(int(size) for size in tensor.shape)


def _size(value: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)

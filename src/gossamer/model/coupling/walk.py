"""The walk: labels carried through the operators of a model, one rule per operator.

The graph is that of ``torch.export``, with recurrent layers as one operator each.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from gossamer.model.coupling.call import Call, Number
from gossamer.model.coupling.labels import Block, Labels, Space, Tagged
from gossamer.model.coupling.rules import POINTWISE, RULES
from gossamer.model.graph import Unseen
from gossamer.model.narrow import why_not_narrow
from gossamer.model.trace import attribute_of, calling_module, exported, operator_of, release, shapes_of, source_of


@dataclass
class Walk:
    """What one walk found.

    Attributes:
        space: all labels and how they hang together.
        tensors: labels of each dimension of each parameter and buffer, by name; None for sizes of 1.
        numbers: sizes that operators were called with.
        kernels: labels of the input channels of grouped convolutions, by the first label of the weight's dimension.
        unseen: operators without a rule, or why the model could not be walked at all.
    """

    space: Space = field(default_factory=Space)
    tensors: dict[str, tuple[Labels | None, ...]] = field(default_factory=dict)
    numbers: list[Number] = field(default_factory=list)
    kernels: dict[int, Labels] = field(default_factory=dict)
    unseen: list[Unseen] = field(default_factory=list)


def walk(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Walk:
    """Walk ``model``, a throwaway plain copy, on example inputs; never fails.

    Where the model cannot be followed, that is the only entry of ``unseen`` and no parameter has labels.
    """
    program = exported(model, args, kwargs)
    found = Walk()
    if isinstance(program, Unseen):
        found.unseen.append(program)
    else:
        _Steps(found, _shared(model)).program(program)
        _stick_attention(found, model)
    release(model)
    return found


def _stick_attention(found: Walk, model: nn.Module) -> None:
    """Leave alone what an attention that cannot be narrowed touches."""
    for path, module in model.named_modules():
        reason = why_not_narrow(module) if isinstance(module, nn.MultiheadAttention) else None
        for name, dims in found.tensors.items() if reason is not None else ():
            if name.startswith(f"{path}." if path else ""):
                for labels in dims:
                    if labels is not None:
                        found.space.stick(labels, str(reason))


def _shared(model: nn.Module) -> dict[str, str]:
    """Return the first name of every parameter and buffer, by each of its names."""
    first: dict[int, str] = {}
    names = {}
    for name, value in model.state_dict(keep_vars=True).items():
        names[name] = first.setdefault(id(value), name)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        names.setdefault(name, first.setdefault(id(buffer), name))
    return names


@dataclass
class _Steps:
    """The walk under way."""

    found: Walk
    names: Mapping[str, str]
    values: dict[fx.Node, Any] = field(default_factory=dict)

    def program(self, program: torch.export.ExportedProgram) -> None:
        signature = program.graph_signature
        lifted = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        for node in program.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node, lifted.get(node.name))
        self._graph(program.graph_module)

    def _placeholder(self, node: fx.Node, name: str | None) -> Any:
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return value
        shape = tuple(int(size) for size in value.shape)
        if name is None or not node.users:
            return Tagged(shape)
        first = self.names.get(name, name)
        if first not in self.found.tensors:
            self.found.tensors[first] = tuple(self.found.space.fresh(size) if size > 1 else None for size in shape)
        labels = self.found.tensors[first]
        return Tagged(shape, tuple(Block((d,), one) for d, one in enumerate(labels) if one is not None), weight=True)

    def _graph(self, module: fx.GraphModule) -> None:
        for node in module.graph.nodes:
            if node.op == "call_function":
                self.values[node] = self._call(module, node)
            elif node.op == "get_attr":
                value = attribute_of(module, node)
                self.values[node] = Tagged(tuple(value.shape)) if isinstance(value, Tensor) else value
            elif node.op == "output":
                self._output(node)

    def _output(self, node: fx.Node) -> None:
        tensors = [self.values[given] for given in node.all_input_nodes if isinstance(self.values[given], Tagged)]
        self.found.space.stick_all(tensors, "it is an output of the model")

    def _call(self, module: fx.GraphModule, node: fx.Node) -> Any:
        shapes = tuple(shapes_of(node.meta.get("val")))
        if not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001  # the type has no public name
            return self._other(module, node, shapes)
        operator = operator_of(node)
        call = Call(
            self.found.space,
            self._arguments(node),
            shapes,
            calling_module(node),
            source_of(node) or operator,
            self.found.numbers,
            self.found.kernels,
        )
        rule = RULES.get(operator.removesuffix("_"), RULES.get(operator))
        if rule is None and torch.Tag.pointwise in node.target.tags:
            rule = POINTWISE
        tensors = call.tensors()
        if not any(tensor.blocks for tensor in tensors) and rule is not RULES["aten.zeros"]:
            return _bare(shapes)
        outcome = None if rule is None else rule(call)
        if outcome is None:
            self.found.space.stick_all(tensors, f"{operator} at {call.source} has no rule")
            if shapes:
                self.found.unseen.append(
                    Unseen(operator, source_of(node), "there is no rule for what it does to indices")
                )
            return _bare(shapes)
        return (
            outcome if isinstance(outcome, list) and isinstance(node.meta.get("val"), list | tuple) else _first(outcome)
        )

    def _arguments(self, node: fx.Node) -> dict[str, Any]:
        schema = node.target._schema  # type: ignore[union-attr]  # noqa: SLF001
        named = {argument.name: value for argument, value in zip(schema.arguments, node.args, strict=False)}
        return {name: self._value(value) for name, value in {**named, **node.kwargs}.items()}

    def _value(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self.values.get(value)
        return [self._value(item) for item in value] if isinstance(value, list | tuple) else value

    def _other(self, module: fx.GraphModule, node: fx.Node, shapes: tuple[tuple[int, ...], ...]) -> Any:
        """Return the outcome of what is no operator: an item of a tuple, or a block of the graph."""
        given = [self._value(arg) for arg in node.args]
        if getattr(node.target, "__name__", "") == "getitem":
            return given[0][given[1]] if isinstance(given[0], list | tuple) else given[0]
        blocks = [arg for arg in node.all_input_nodes if isinstance(attribute_of(module, arg), fx.GraphModule)]
        name = str(getattr(node.target, "name", lambda: node.target)())
        if len(blocks) == 1 and name in {"wrap_with_set_grad_enabled", "wrap_with_autocast"}:
            return self._block(attribute_of(module, blocks[0]), [arg for arg in given if isinstance(arg, Tagged)])
        tensors = [self.values[arg] for arg in node.all_input_nodes if isinstance(self.values.get(arg), Tagged)]
        self.found.space.stick_all(tensors, f"{name} at {source_of(node) or name} has no rule")
        if tensors:
            self.found.unseen.append(Unseen(name, source_of(node), "there is no rule for what it does to indices"))
        return _bare(shapes)

    def _block(self, block: fx.GraphModule, given: list[Tagged]) -> list[Any]:
        places = [node for node in block.graph.nodes if node.op == "placeholder"]
        self.values.update(zip(places, given, strict=True))
        for node in block.graph.nodes:
            if node.op == "output":
                return [self._value(arg) for arg in node.args[0]]
            if node.op == "call_function":
                self.values[node] = self._call(block, node)
        return []


def _bare(shapes: tuple[tuple[int, ...], ...]) -> Any:
    """Return tensors without labels: one, or a list."""
    found = [Tagged(shape) for shape in shapes]
    return found[0] if len(found) == 1 else found


def _first(outcome: Tagged | list[Tagged]) -> Tagged:
    return outcome[0] if isinstance(outcome, list) else outcome

"""What goes in and out of a part of a model when examples run through it, in bounded memory."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.methods.quantize.units import Unit
from gossamer.model import Example

MOST = 1 << 25
"""Numbers that are held at most of one quantity: inputs, outputs or gradients of a part."""

Loss = Callable[[Any, Any], Tensor]


@dataclass
class Seen:
    """What was seen, a tensor for each call, float32 on the CPU, samples along the first dimension.

    Attributes:
        inputs: what went into the first module.
        outputs: what came out of the last one.
        gradients: of the loss by those outputs.
        further: arguments of the first module after its input, and those by name.
    """

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    further: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})


class _Enough(Exception):  # noqa: N818  # no error: it ends a forward pass early
    pass


def watched(
    model: nn.Module, examples: Sequence[Example], unit: Unit, *, loss: Loss | None = None, outputs: bool = True
) -> Seen:
    """Run ``model`` on ``examples`` and return what goes into ``unit``, and what comes out of its last stage.

    Args:
        model: in evaluation mode; left as it was.
        examples: batches.
        unit: a part of the model.
        loss: if given, gradients are taken of it, one batch after another.
        outputs: whether the outputs are wanted too.
    """
    watch = _Watch(unit, MOST // max(1, len(examples) * unit.calls), whole=loss is not None, outputs=outputs)
    first, last = (model.get_submodule(unit.stages[i]) for i in (0, -1))
    handles = [first.register_forward_pre_hook(watch.entering, prepend=True, with_kwargs=True)]
    if outputs:
        handles.append(last.register_forward_hook(watch.leaving))
    try:
        for args, kwargs, targets in examples:
            watch.calls, watch.ends = 0, []
            with torch.set_grad_enabled(loss is not None), suppress(_Enough):
                answers = model(*args, **kwargs)
                if loss is not None:
                    watch.grade(loss(answers, targets))
    finally:
        for handle in handles:
            handle.remove()
    return watch.seen


class _Watch:
    """Hooks that hold what passes.

    Args:
        unit: what they are for.
        most: numbers held of one call.
        whole: whether the model must run to its end, for the loss.
        outputs: whether outputs are wanted.
    """

    def __init__(self, unit: Unit, most: int, *, whole: bool, outputs: bool) -> None:
        self.unit, self.most, self.whole, self.outputs = unit, most, whole, outputs
        self.seen = Seen()
        self.calls = 0
        self.ends: list[Tensor] = []

    def entering(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.calls += 1
        if self.calls > self.unit.calls:
            return
        named = {} if args else dict([next(iter(kwargs.items()))])
        self.seen.inputs.append(self._held(args[0] if args else next(iter(named.values()))))
        self.seen.further = (args[1:], {name: value for name, value in kwargs.items() if name not in named})
        if not self.outputs and self.calls == self.unit.calls:
            raise _Enough

    def leaving(self, _module: nn.Module, _args: Any, made: Tensor) -> Tensor | None:
        if self.calls > self.unit.calls:
            return None
        self.seen.outputs.append(self._held(made))
        if self.whole:
            self.ends.append(made if made.requires_grad else made.detach().requires_grad_())
            return self.ends[-1].clone()  # what comes after it may write into it
        if self.calls == self.unit.calls:
            raise _Enough
        return None

    def grade(self, loss: Tensor) -> None:
        """Hold the gradients of ``loss`` by the outputs; zeros where it does not depend on them."""
        known = torch.autograd.grad(loss, self.ends, allow_unused=True) if self.ends and loss.requires_grad else ()
        for i, end in enumerate(self.ends):
            gradient = known[i] if known else None
            self.seen.gradients.append(self._held(torch.zeros_like(end) if gradient is None else gradient))

    def _held(self, value: Tensor) -> Tensor:
        """Return as many samples as make no more than the most, one in any case, in an order that is the same for all.

        So what is held of the inputs and of the outputs of a call begins with the same samples, whatever their sizes.
        """
        plain = value.detach().to("cpu", torch.float32)
        if self.unit.batched is not None and plain.ndim < self.unit.batched:
            plain = plain.unsqueeze(0)
        room = max(1, self.most // max(1, plain[0].numel())) if len(plain) else 0
        order = torch.randperm(len(plain), generator=torch.Generator().manual_seed(0))
        return plain[order[:room]]

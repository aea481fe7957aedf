"""What goes in and out of a part of a model when examples run through it, in bounded memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

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
    """

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)


class _Enough(Exception):  # noqa: N818  # no error: it ends a forward pass early
    pass


def watched(
    model: nn.Module,
    examples: Sequence[Example],
    stages: Sequence[str],
    calls: int,
    *,
    batched: int | None = None,
    loss: Loss | None = None,
    outputs: bool = True,
) -> Seen:
    """Run ``model`` on ``examples`` and return what went into the first of ``stages`` and came out of the last.

    Args:
        model: in evaluation mode; left as it was.
        examples: batches.
        stages: paths of modules.
        calls: how often each runs for one batch.
        batched: dimensions of an input that has one for samples; one with fewer gets it.
        loss: if given, gradients are taken of it, one batch after another.
        outputs: whether the outputs are wanted too.
    """
    seen = Seen()
    most = MOST // max(1, len(examples) * calls)
    ends: list[Tensor] = []
    inputs = 0

    def entering(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal inputs
        inputs += 1
        seen.inputs.append(_held(args[0] if args else kwargs["input"], batched, most))
        if not outputs and inputs == calls:
            raise _Enough

    def leaving(_module: nn.Module, _args: Any, made: Tensor) -> Tensor | None:
        seen.outputs.append(_held(made, batched, most))
        if loss is not None:
            ends.append(made if made.requires_grad else made.detach().requires_grad_())
            return ends[-1].clone()  # what comes after it may write into it
        if len(seen.outputs) % calls == 0:
            raise _Enough
        return None

    handles = [model.get_submodule(stages[0]).register_forward_pre_hook(entering, prepend=True, with_kwargs=True)]
    if outputs:
        handles.append(model.get_submodule(stages[-1]).register_forward_hook(leaving))
    try:
        for args, kwargs, targets in examples:
            ends.clear()
            inputs = 0
            with torch.set_grad_enabled(loss is not None):
                try:
                    answers = model(*args, **kwargs)
                except _Enough:
                    continue
                if loss is not None and ends:
                    total = loss(answers, targets)
                    known = torch.autograd.grad(total, ends, allow_unused=True) if total.requires_grad else ()
                    filled = [torch.zeros_like(end) if g is None else g for end, g in zip(ends, known, strict=True)]
                    seen.gradients += [_held(gradient, batched, most) for gradient in filled]
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _held(value: Tensor, batched: int | None, most: int) -> Tensor:
    """Return a copy of as many samples, evenly spread, as make no more than ``most`` numbers; one in any case."""
    plain = value.detach().to("cpu", torch.float32)
    if batched is not None and plain.ndim < batched:
        plain = plain.unsqueeze(0)
    count = len(plain)
    room = max(1, most // max(1, plain[0].numel())) if count else 0
    if count <= room:
        return plain.clone()
    return plain[torch.linspace(0, count - 1, room).long()]

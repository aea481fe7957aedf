"""Rewinding: weights take the values they had earlier in the run, and what holds by now goes on holding.

Frankle and Carbin, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks", ICLR 2019 (arXiv
1803.03635): train, prune, put the weights that stay back to their values at the start, train again. Frankle, Dziugaite,
Roy and Carbin, "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020 (arXiv 1912.05671): larger
networks want the values of a point early in training. The journal of a run keeps the weights after every step, so a
recipe names the step to go back to.
"""

import torch
from torch import Tensor, nn

from gossamer.errors import PlanError, RecipeError
from gossamer.model import Plan, Subject, apply
from gossamer.model.input_grid import STEP
from gossamer.model.live import Live
from gossamer.model.site import owned_parameters


def rewound(subject: Subject, earlier: Subject) -> Subject:
    """Return ``subject`` with the values of ``earlier``: of all parameters, and of buffers such as running statistics.

    Raises:
        RecipeError: the structure has changed in between, or values are shared by now.
    """
    now, then = _parameters(subject), _parameters(earlier)
    if {name: value.shape for name, value in now.items()} != {name: value.shape for name, value in then.items()}:
        changed = sorted(name for name in {*now, *then} if name not in now or name not in then)
        raise RecipeError(
            f"rewind: the model's structure has changed since ({', '.join(changed[:3]) or 'shapes'})",
            hint="rewind to a step after the last change of structure",
        )
    try:
        new = apply(subject, Plan("rewind", tensors=then))
    except PlanError as error:
        raise RecipeError(f"rewind: {error.message}", hint="rewind before values are shared") from error
    before = _buffers(earlier.model)
    with torch.no_grad():
        for name, buffer in _buffers(new.model).items():
            if name in before:
                buffer.copy_(before[name])
    return new


def _parameters(subject: Subject) -> dict[str, Tensor]:
    """Return the value behind each parameter's constraints by the name of its first owner; steps of inputs are none."""
    found: dict[int, tuple[str, Tensor]] = {}
    for owner, _, parameter in owned_parameters(subject.model):
        if owner.attribute == STEP:
            continue
        found.setdefault(id(parameter), (owner.name, parameter.detach()))
    return dict(found.values())


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that are the model's own: no masks, grids or codes."""
    live = {id(buffer) for part in model.modules() if isinstance(part, Live) for buffer in part.buffers()}
    return {name: buffer for name, buffer in model.named_buffers() if id(buffer) not in live}

"""One streaming pass over calibration data that collects evidence for every site at once.

The second moment H = Σ x xᵀ of a site's inputs is what second-order pruning (Hassibi and Stork, NIPS 1992), error
feedback quantization (Frantar et al., arXiv 2210.17323) and whitened low rank ask for; ranges serve quantization of
activations (Jacob et al., arXiv 1712.05877); squared gradients are the diagonal of the empirical Fisher information;
the curvature of the loss in each site's outputs weighs its errors (`curvature`).
Memory is bounded by the sums themselves plus one batch.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import nullcontext
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gossamer.bars import bar
from gossamer.calibrate.cells import Cells
from gossamer.calibrate.curvature import Curvatures, one_finite
from gossamer.calibrate.depth import BlockDepth, block_patterns
from gossamer.calibrate.inputs import Inputs
from gossamer.calibrate.outputs import Outputs
from gossamer.calibrate.shift import output_shifts
from gossamer.calibrate.units import UnitActivity, UnitTaylor
from gossamer.calibrate.uses import Unread, Use, Watch, Weights, plain_kernels
from gossamer.errors import EvidenceError
from gossamer.model.evidence import KINDS, Evidence, Example
from gossamer.model.subject import Subject, plain_copy
from gossamer.task import Batch

Loss = Callable[[Any, Any], Tensor]

EXAMPLES = 1 << 28
"""Bytes of batches that are kept at most when examples are needed, the first batch in any case."""


def calibrate(
    subject: Subject,
    batches: Iterable[Batch],
    needs: Iterable[str],
    *,
    loss: Loss | None = None,
    samples: int = 65_536,
    progress: Progress | None = None,
) -> Evidence:
    """Run ``subject`` over ``batches`` in evaluation mode and collect the evidence that methods ask for.

    Args:
        subject: left untouched; a plain copy runs.
        batches: (args, kwargs, targets) per batch; targets are used for the loss only.
        needs: kinds of evidence, see :mod:`gossamer.model.evidence`. For ``taylor`` give batches of one sample, for
            ``curvature`` many small ones.
        loss: maps (outputs, targets) to a scalar; wanted when gradients, curvatures or depths are needed.
        samples: numbers kept of each site's inputs when ranges are needed.
        progress: bars to add one of this pass to.

    Returns:
        the evidence, on the CPU. Sites that no batch reached are named in ``unread`` with the reason.

    Raises:
        PatternError: a pattern of blocks names nothing that can be dropped.
        EvidenceError: an unknown kind; no batches, or a batch of the wrong form; an input or a loss that is empty or
            not finite (named with its site and batch).
    """
    wanted = _checked(needs, loss, samples)
    inputs = Inputs(wanted, samples)
    model = plain_copy(subject).eval()
    weights = {site: model.get_parameter(site) for site in subject.sites}
    gradients = _Gradients(weights if wanted & {"gradient", "taylor"} else {})
    activity = UnitActivity(subject.groups if "activity" in wanted else ())
    taylor = UnitTaylor(subject.groups if "taylor" in wanted else ())

    curved = Curvatures(model, subject.sites, loss) if loss is not None and "curvature" in wanted else None
    depth = BlockDepth.of(subject, model, block_patterns(wanted))
    outputs = Outputs(subject, model, inputs) if "range" in wanted else None
    cells = Cells(model, subject.sites.values(), inputs) if "cell" in wanted else None

    def see(found: Use | Unread) -> None:
        inputs.see(found)
        if isinstance(found, Use) and activity.groups:
            activity.see(found)
        if isinstance(found, Use) and curved is not None:
            curved.see(found)

    device = next((weight.device for weight in weights.values()), torch.device("cpu"))
    examples = _Examples(keeps=not wanted.isdisjoint({"examples", "shift"}))
    count, graded = 0, bool(gradients.weights) or curved is not None
    for args, kwargs, targets in checked_batches(batches, device, "calibrating", progress):
        inputs.batch = count
        examples.add((args, kwargs, targets))
        with (
            plain_kernels(),
            torch.set_grad_enabled(graded),
            Watch(Weights(weights), see),
            nullcontext() if outputs is None else outputs.watched(),
            nullcontext() if cells is None else cells.watched(),
        ):
            result = model(*args, **kwargs)
        if curved is not None:
            curved.add(result, targets, count)
        if loss is not None and gradients.weights:
            taylor.add(gradients.add(loss(result, targets), count))
        if loss is not None and depth.blocks:
            depth.add(Batch(args, kwargs, targets), loss, count)
        count += 1
    if not count:
        raise EvidenceError("calibration was given no batches", hint="an iterator can be run through only once")
    moments = inputs.moments()
    unread = {} if outputs is None else outputs.unread
    return Evidence(
        kinds=wanted,
        batches=count,
        moments=moments,
        means=inputs.means(),
        ranges={name: (ends.low, ends.high) for name, ends in inputs.extremes.items() if name not in unread},
        averages={name: ends.average() for name, ends in inputs.extremes.items() if name not in unread},
        sampled={name: sample.numbers() for name, sample in inputs.sampled.items() if name not in unread},
        peaks=inputs.peaks,
        gradients={site: total / count for site, total in gradients.totals.items()},
        fishers={site: total / count for site, total in gradients.squares.items()},
        curvatures={} if curved is None else curved.curvatures(moments),
        sensitivities={} if curved is None else curved.sensitivities(),
        activities=activity.activities(),
        taylors={group: total / count for group, total in taylor.totals.items()},
        depths={block: total / count for block, total in depth.totals.items()},
        shifts=output_shifts(subject, examples.batches()) if "shift" in wanted else {},
        unread={site: "no batch used it" for site in weights if not inputs.saw(site)} | inputs.unread | unread,
        kept=tuple(examples.kept) if "examples" in wanted else (),
        loss=loss,
    )


class _Examples:
    """The first batches, until they are too many bytes; none unless it keeps any."""

    def __init__(self, *, keeps: bool) -> None:
        self.keeps = keeps
        self.kept: list[Example] = []
        self.bytes = 0

    def add(self, example: Example) -> None:
        tensors = [leaf for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor)]
        self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if self.keeps and (not self.kept or self.bytes <= EXAMPLES):
            self.kept.append(example)

    def batches(self) -> list[Batch]:
        """Return what was kept, as batches."""
        return [Batch(args, dict(kwargs), targets) for args, kwargs, targets in self.kept]


class _Gradients:
    """Running sums of gradients and squared gradients of the weights."""

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        self.weights = weights
        self.totals = {site: torch.zeros(weight.shape) for site, weight in weights.items()}
        self.squares = {site: torch.zeros(weight.shape) for site, weight in weights.items()}
        for weight in weights.values():
            weight.requires_grad_()

    def add(self, loss: Tensor, batch: int) -> dict[str, Tensor]:
        """Add the gradients of one batch's loss, and return them times the weights.

        A weight that the loss does not reach has gradient zero.
        """
        one_finite(loss, batch)
        products: dict[str, Tensor] = {}
        if not loss.requires_grad:
            return products
        found = torch.autograd.grad(loss, list(self.weights.values()), allow_unused=True)
        for site, gradient in zip(self.weights, found, strict=True):
            if gradient is not None:
                plain = gradient.detach().to("cpu", torch.float32)
                self.totals[site] += plain
                self.squares[site].addcmul_(plain, plain)
                products[site] = plain * self.weights[site].detach().to("cpu", torch.float32)
        return products


def _checked(needs: Iterable[str], loss: Loss | None, samples: int) -> frozenset[str]:
    wanted = frozenset((needs,) if isinstance(needs, str) else needs)
    unknown = sorted(need for need in wanted if need not in KINDS and not need.startswith("depth:"))
    if unknown:
        raise EvidenceError(
            f"calibration knows no evidence of kind {', '.join(unknown)}",
            hint=f"the kinds are {', '.join(sorted(KINDS))}",
        )
    asked = (
        "gradients" if wanted & {"gradient", "taylor", "curvature"} else "depths" if block_patterns(wanted) else None
    )
    if asked and loss is None:
        raise EvidenceError(f"calibration was asked for {asked} without a loss", hint="pass loss=task.loss")
    if samples < 1:
        raise EvidenceError(f"calibration: wanted samples of at least 1, got {samples}")
    implied = {"curvature": "second_moment", "cell": "range"}
    return wanted | {other for need, other in implied.items() if need in wanted}


def checked_batches(
    batches: Iterable[Batch], device: torch.device, what: str, progress: Progress | None
) -> Iterator[Batch]:
    """Yield each batch on ``device``, with a bar named ``what`` added to ``progress``.

    Raises:
        EvidenceError: a batch is not (args, kwargs, targets).
    """
    total = len(batches) if isinstance(batches, Sized) else None
    with bar(progress, what, total) as advance:
        for index, batch in enumerate(batches):
            match batch:
                case (tuple() | list() as args, Mapping() as kwargs, targets):
                    yield Batch(tuple(args), dict(kwargs), targets).to(device)
                case _:
                    raise EvidenceError(
                        f"calibration batch {index}: wanted (args, kwargs, targets), got {type(batch).__name__}",
                        hint="args is a tuple of positional inputs and kwargs a dict of keyword inputs",
                    )
            advance()

"""What both tools are given, and how what they hand back is checked."""

from pathlib import Path
from resource import getpagesize
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from gossamer import zoo
from gossamer.model import Subject
from gossamer.targets import compare, to_onnx

CLOSE = 1e-5
"""Of the largest output, or of 1 where that is smaller: outputs this near are the same."""
ASKED = 0.5


def network(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """Return a network of the zoo with its example inputs.

    Normalisations get random scales, shifts and statistics: with those of a new network, all the same, a cut that took
    the wrong ones would not show.
    """
    torch.manual_seed(0)
    model = zoo.build(name, pretrained=None).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm | _BatchNorm):
                module.weight.mul_(torch.empty_like(module.weight).uniform_(0.7, 1.3))
                module.bias.add_(0.1 * torch.randn_like(module.bias))
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
                module.running_mean.add_(0.1 * torch.randn_like(module.running_mean))
                module.running_var.mul_(torch.empty_like(module.running_var).uniform_(0.7, 1.3))
    return model, zoo.example(name)


def bytes_of(model: nn.Module) -> int:
    """Return the bytes of all parameters."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def used() -> int:
    """Return the memory this process uses now, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()


def said(error: Exception) -> str:
    """Return the type and the first line of an error."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}".strip()


def outputs(model: nn.Module, args: tuple[Any, ...]) -> list[Tensor]:
    """Return what the network gives, as a list."""
    with torch.no_grad():
        return [leaf for leaf in pytree.tree_leaves(model(*args)) if isinstance(leaf, Tensor)]


def distance(got: list[Tensor], wanted: list[Tensor]) -> float:
    """Return the largest difference, in units of the largest output or of 1; infinite if shapes differ."""
    if [one.shape for one in got] != [one.shape for one in wanted]:
        return float("inf")
    pairs = zip(got, wanted, strict=True)
    return max(float((one - other).abs().max()) / max(1.0, float(other.abs().max())) for one, other in pairs)


def macs(model: nn.Module, args: tuple[Any, ...]) -> int:
    """Return the multiply-accumulates of one run, by our counter whoever made the model."""
    return Subject.of(model, *args).graph.macs or 0


def checked(model: nn.Module, args: tuple[Any, ...], dense: int) -> dict[str, Any]:
    """Return whether a cut network runs, trains and exports, what is left of it; the first error of each if not."""
    row: dict[str, Any] = {"macs_left": None, "parameters_left": sum(one.numel() for one in model.parameters())}
    for name, check in {"runs": _runs, "trains": _trains, "exports": _exports}.items():
        try:
            row[name] = check(model, args)
        except Exception as error:  # noqa: BLE001  # whatever a tool's model raises is the result
            row[name] = said(error)
    if row["runs"] == "yes":
        row["macs_left"] = macs(model, args) / dense
    return row


def _runs(model: nn.Module, args: tuple[Any, ...]) -> str:
    finite = all(bool(torch.isfinite(one).all()) for one in outputs(model, args))
    return "yes" if finite else "outputs are not finite"


def _trains(model: nn.Module, args: tuple[Any, ...]) -> str:
    """Two samples, one step: every parameter has a gradient of its shape."""
    model.train()
    try:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        pytree.tree_leaves(model(*(torch.cat([arg, arg]) for arg in args)))[0].square().mean().backward()
        optimizer.step()
        still = sum(parameter.grad is None for parameter in model.parameters())
    finally:
        model.zero_grad()
        model.eval()
    return "yes" if not still else f"{still} parameters have no gradient"


def _exports(model: nn.Module, args: tuple[Any, ...]) -> str:
    largest = max(float(one.abs().max()) for one in outputs(model, args))
    difference = compare(model, to_onnx(model, args), args) / max(1.0, largest)
    return "yes" if difference <= 10 * CLOSE else f"ONNX Runtime differs from torch by {difference:.2g}"

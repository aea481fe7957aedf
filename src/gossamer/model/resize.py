"""Resizing: tensors of a model made smaller, and its modules told of their new sizes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gossamer.errors import ModelError
from gossamer.model.edits import Resize
from gossamer.model.live import live_parts
from gossamer.model.narrow import narrow
from gossamer.model.site import owned_parameters

Index = tuple[np.ndarray | None, ...]
"""For each dimension of a tensor the positions that stay, or None for all; for the second dimension of a grouped
convolution's kernel they are two-dimensional: one row per group."""

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def shrink(model: nn.Module, edit: Resize) -> None:
    """Carry out ``edit`` on ``model`` in place: the first positions of every dimension stay.

    Raises:
        ModelError: the model has no such tensor, or one that is smaller already.
    """
    tensors = stored_tensors(model)
    for name, shape in edit.shapes:
        if name not in tensors:
            raise ModelError(f"resize: {type(model).__name__} has no tensor {name!r}")
        old = tuple(tensors[name].shape)
        if len(old) != len(shape) or any(not 0 < new <= size for new, size in zip(shape, old, strict=True)):
            raise ModelError(f"resize: {name} of shape {old} cannot become {tuple(shape)}")
        tensors[name].data = tensors[name].data[tuple(slice(0, size) for size in shape)].clone()
    tell_sizes(model, [name for name, _ in edit.shapes], edit.constants)


def take(model: nn.Module, index: Mapping[str, Index], constants: Iterable[tuple[str, str, int]] = ()) -> Resize:
    """Keep some positions of some tensors of ``model`` in place, under their constraints; return what it came to.

    Args:
        model: changed in place.
        index: the positions that stay, by tensor.
        constants: module path, attribute and new value of integers that code keeps of a size.
    """
    tensors = stored_tensors(model)
    live = {owner.name: part for owner, _, part, _ in live_parts(model)}
    for name, kept in index.items():
        tensors[name].data = picked(tensors[name].data, kept)
        if name in live:
            for attribute in ("keep", "splice", "codes", "shared", "priced"):
                value = getattr(live[name], attribute)
                if value is not None:
                    setattr(live[name], attribute, picked(value, kept))
            starts = live[name].starts
            if starts is not None:
                live[name].starts = picked(starts, kept[:1])
            axis = live[name].axis
            if axis is not None and kept[axis] is not None:
                for attribute in ("scale", "zero"):
                    value = getattr(live[name], attribute)
                    if value is not None:
                        setattr(live[name], attribute, picked(value, (kept[axis],)))
                log_scale = live[name].log_scale
                if log_scale is not None:
                    log_scale.data = picked(log_scale.data, (kept[axis],))
    fixed = tuple(constants)
    tell_sizes(model, list(index), fixed)
    return Resize(tuple((name, tuple(tensors[name].shape)) for name in index), fixed)


def picked(value: Tensor, kept: Index) -> Tensor:
    """Return a copy of ``value`` with the positions of ``kept`` only."""
    for dim, positions in enumerate(kept):
        if positions is None:
            continue
        if positions.ndim == 1:
            value = value.index_select(dim, torch.from_numpy(positions).to(value.device))
            continue
        parts = value.chunk(len(positions))
        rows = [torch.from_numpy(row).to(value.device) for row in positions]
        value = torch.cat([part.index_select(dim, row) for part, row in zip(parts, rows, strict=True)])
    return value.contiguous().clone()


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter (the original of a constrained one) and buffer by its plain name."""
    found: dict[str, Tensor] = {owner.name: parameter for owner, _, parameter in owned_parameters(model)}
    for name, buffer in model.named_buffers():
        if ".parametrizations." not in name and not name.startswith("parametrizations."):
            found.setdefault(name, buffer)
    return found


def tell_sizes(model: nn.Module, names: Iterable[str], constants: Iterable[tuple[str, str, int]] = ()) -> None:
    """Tell the modules that hold the tensors ``names`` their new sizes, and set ``constants``.

    Raises:
        ModelError: a constant's module or attribute is not there.
    """
    listed = set(names)
    stored = stored_tensors(model)
    resized = {id(stored[name]) for name in listed if name in stored}
    paths = {name.rpartition(".")[0] for name in listed}
    paths |= {owner.module for owner, _, parameter in owned_parameters(model) if id(parameter) in resized}
    holders = {path.rpartition(".")[0] for path in paths if path}  # an attention reads its output layer by name
    touched = {id(model.get_submodule(path)) for path in paths}
    touched |= {id(m) for path in holders if isinstance(m := model.get_submodule(path), nn.MultiheadAttention)}
    for module in model.modules():
        if id(module) in touched:
            _tell(module)
    for path, attribute, value in constants:
        try:
            module = model.get_submodule(path)
        except AttributeError as error:
            raise ModelError(f"resize: {type(model).__name__} has no module {path!r}") from error
        if not isinstance(getattr(module, attribute, None), int):
            raise ModelError(f"resize: {path or type(model).__name__} has no integer {attribute!r}")
        setattr(module, attribute, value)


def _tell(module: nn.Module) -> None:
    for kind, tell in _TELL:
        if isinstance(module, kind):
            tell(module)
            return


def _linear(module: Any) -> None:
    module.out_features, module.in_features = module.weight.shape


def _convolution(module: Any) -> None:
    rows, columns = module.weight.shape[:2]
    transposed = isinstance(module, _TRANSPOSED)
    if module.groups > 1 and module.in_channels == module.groups:  # depthwise
        module.groups = rows if transposed else rows // (module.out_channels // module.groups)
    ways = rows, columns * module.groups
    module.in_channels, module.out_channels = ways if transposed else reversed(ways)


def _norm_of_channels(module: Any) -> None:
    module.num_features = len(module.weight if module.weight is not None else module.running_mean)


def _group_norm(module: Any) -> None:
    every = module.num_groups == module.num_channels
    module.num_channels = len(module.weight)
    module.num_groups = module.num_channels if every else module.num_groups


def _norm_of_shape(module: Any) -> None:
    module.normalized_shape = tuple(module.weight.shape)


def _embedding(module: Any) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _prelu(module: Any) -> None:
    module.num_parameters = len(module.weight)


def _recurrent(module: Any) -> None:
    projected = module.proj_size > 0
    module.input_size = module.weight_ih_l0.shape[1]
    module.proj_size = module.weight_hh_l0.shape[1] if projected else 0
    module.hidden_size = (module.weight_hr_l0 if projected else module.weight_hh_l0).shape[1]


def _cell(module: Any) -> None:
    module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[1]


_TELL: tuple[tuple[type[nn.Module], Callable[[Any], None]], ...] = (
    (nn.MultiheadAttention, narrow),
    (nn.Linear, _linear),
    (nn.modules.conv._ConvNd, _convolution),  # noqa: SLF001  # torch gives these two families no public name
    (nn.modules.batchnorm._NormBase, _norm_of_channels),  # noqa: SLF001
    (nn.GroupNorm, _group_norm),
    (nn.LayerNorm, _norm_of_shape),
    (nn.RMSNorm, _norm_of_shape),
    (nn.Embedding, _embedding),
    (nn.EmbeddingBag, _embedding),
    (nn.PReLU, _prelu),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _cell),
)
"""How each kind of module is told the sizes of its tensors."""

"""Surgery: carrying out edits on a module, as structure alone or with the weights they need.

``Split`` is the low-rank form W ≈ U V of Denton et al. (2014); folding a batch norm into the layer before it follows
Jacob et al. (2018), section 3.2.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from gossamer.errors import ModelError
from gossamer.model.edits import Cut, Drop, Edit, Fold, Resize, Split, Unclip
from gossamer.model.hooks import take_hook
from gossamer.model.live import Live
from gossamer.model.output_grid import OutputGrid
from gossamer.model.resize import shrink
from gossamer.model.site import owned_parameters
from gossamer.model.stand_in import stand_in

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def perform(model: nn.Module, edit: Edit) -> None:
    """Carry out ``edit`` on ``model`` in place. A fold keeps the function; a split leaves its new weights zero.

    Raises:
        ModelError: the model has no such module, or it is of the wrong kind.
    """
    match edit:
        case Split():
            _split(model, edit)
        case Fold(kind="batch_norm"):
            _fold_batch_norm(model, edit)
        case Fold():
            _fold_parametrization(model, edit)
        case Resize():
            shrink(model, edit)
        case Drop():
            _drop(model, edit)
        case Unclip():
            _unclip(model, edit)
        case Cut():
            raise ModelError("a cut needs the groups of a subject; what it came to is a resize, which can be replayed")


def module_at(model: nn.Module, path: str, edit: Edit) -> nn.Module:
    """Return the module at ``path``.

    Raises:
        ModelError: there is none.
    """
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise ModelError(f"{edit}: {type(model).__name__} has no module {path!r}") from error


def parametrized_folds(model: nn.Module) -> tuple[Fold, ...]:
    """Return the folds that dissolve every re-parametrised weight the model came with."""
    folds = []
    for path, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():  # noqa: SLF001  # torch lists hooks nowhere else
            if isinstance(hook, WeightNorm):
                folds.append(Fold("weight_norm", path, hook.name))
            elif isinstance(hook, SpectralNorm):
                folds.append(Fold("parametrization", path, hook.name))
        if parametrize.is_parametrized(module):
            for attribute, parts in module.parametrizations.items():
                if not any(isinstance(part, Live) for part in parts):
                    norm = any(type(part).__name__ == "_WeightNorm" for part in parts)
                    folds.append(Fold("weight_norm" if norm else "parametrization", path, attribute))
    return tuple(folds)


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` in place of ``old`` at every path."""
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            parent, _, name = path.rpartition(".")
            model.get_submodule(parent).register_module(name, new)


def why_no_split(model: nn.Module, path: str) -> str | None:
    """Return why the module at ``path`` cannot become two layers, or None if it can."""
    module = model.get_submodule(path)
    if parametrize.is_parametrized(module):
        return f"{path} is constrained, and a split would lose that"
    if type(module) is not nn.Linear:
        return f"{path} is {type(module).__name__}, and only a plain Linear layer can be split"
    parent = model.get_submodule(path.rpartition(".")[0])
    if isinstance(parent, nn.TransformerEncoderLayer | nn.MultiheadAttention):
        return f"{type(parent).__name__} reads the weight of {path} by name"
    others = [owner.name for owner, m, p in owned_parameters(model) if p is module.weight and m is not module]
    if others:
        return f"the weight is tied to {', '.join(others)}"
    return None


def _drop(model: nn.Module, edit: Drop) -> None:
    if not edit.module:
        raise ModelError("Drop: the model itself cannot be dropped, only a module inside it")
    module = module_at(model, edit.module, edit)
    passing = stand_in(module)
    replace_module(model, module, passing)
    for encoder in model.modules():
        if isinstance(encoder, nn.TransformerEncoder) and next(iter(encoder.layers), None) is passing:
            encoder.use_nested_tensor = False  # the shortcut for padded batches reads the weights of the first layer


def _split(model: nn.Module, edit: Split) -> None:
    module: Any = module_at(model, edit.module, edit)
    if not edit.module:
        raise ModelError("Split: the model itself cannot be split, only a layer inside it")
    reason = why_no_split(model, edit.module)
    if reason is not None:
        raise ModelError(f"{edit}: {reason}")
    weight, bias = module.weight, module.bias
    if not 1 <= edit.rank <= min(weight.shape):
        raise ModelError(f"{edit}: wanted a rank from 1 to {min(weight.shape)}")
    pair = nn.Sequential(
        _linear(weight.new_zeros(edit.rank, weight.shape[1]), None, weight),
        _linear(weight.new_zeros(weight.shape[0], edit.rank), bias, weight),
    ).train(module.training)
    replace_module(model, module, pair)


def _linear(weight: Tensor, bias: nn.Parameter | None, like: nn.Parameter) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=like.requires_grad)
    layer.bias = bias  # type: ignore[assignment]
    return layer


def _fold_parametrization(model: nn.Module, edit: Fold) -> None:
    module: Any = module_at(model, edit.module, edit)
    own = dict(module.named_parameters())
    trains = any(p.requires_grad for name, p in own.items() if edit.attribute in name)
    kinds = {type(hook) for hook in module._forward_pre_hooks.values()}  # noqa: SLF001
    if parametrize.is_parametrized(module, edit.attribute):
        for parameter in module.parametrizations[edit.attribute].parameters():
            parameter.requires_grad_(True)  # noqa: FBT003  # torch would make a buffer of a frozen one
        parametrize.remove_parametrizations(module, edit.attribute, leave_parametrized=True)
    elif WeightNorm in kinds:
        remove_weight_norm(module, edit.attribute)
    elif SpectralNorm in kinds:
        remove_spectral_norm(module, edit.attribute)
    else:
        raise ModelError(f"{edit}: {edit.module}.{edit.attribute} is not re-parametrised")
    value = getattr(module, edit.attribute)
    value.requires_grad_(trains)
    if isinstance(module, nn.RNNBase) and not parametrize.is_parametrized(module):
        module._init_flat_weights()  # noqa: SLF001


def _unclip(model: nn.Module, edit: Unclip) -> None:
    module = module_at(model, edit.module, edit)
    if type(module) is not nn.ReLU6:
        raise ModelError(f"{edit}: {edit.module} is {type(module).__name__}, not ReLU6")
    replace_module(model, module, nn.ReLU(inplace=module.inplace).train(module.training))


def why_no_fold(model: nn.Module, edit: Fold) -> str | None:
    """Return why a batch norm cannot be folded into the layer that ``edit`` names, or None if it can."""
    module, norm = module_at(model, edit.module, edit), module_at(model, edit.norm, edit)
    if not isinstance(module, (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)):
        return f"{edit.module} is {type(module).__name__}, not a linear layer or a convolution"
    if not isinstance(norm, _BATCH_NORMS) or norm.running_mean is None or norm.running_var is None:
        return f"{edit.norm} is {type(norm).__name__}, not a batch norm with running statistics"
    outputs = getattr(module, "out_features", None) or getattr(module, "out_channels", None)
    if norm.num_features != outputs:
        return f"{edit.norm} has {norm.num_features} features, {edit.module} gives {outputs}"
    if parametrize.is_parametrized(module):
        return f"{edit.module} is constrained"
    return None


def _fold_batch_norm(model: nn.Module, edit: Fold) -> None:
    reason = why_no_fold(model, edit)
    if reason is not None:
        raise ModelError(f"{edit}: {reason}")
    module: Any = model.get_submodule(edit.module)
    norm = model.get_submodule(edit.norm)
    weight: nn.Parameter = module.weight
    factor, shift = _scale_and_shift(norm)
    with torch.no_grad():
        old = torch.zeros_like(factor) if module.bias is None else module.bias.double()
        bias = (old * factor + shift).to(weight.dtype)
        weight.copy_(weight.double() * _per_output(factor, module))
    trains = weight.requires_grad if module.bias is None else module.bias.requires_grad
    module.bias = nn.Parameter(bias, requires_grad=trains)
    grid = take_hook(norm, OutputGrid)
    if grid is not None:
        take_hook(module, OutputGrid)
        module.register_forward_hook(grid)
    replace_module(model, norm, nn.Identity().train(norm.training))


def _scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    gamma = torch.ones_like(mean) if norm.weight is None else norm.weight.double()
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.double()
    factor = gamma / torch.sqrt(variance + norm.eps)
    return factor, beta - mean * factor


def _per_output(factor: Tensor, module: nn.Module) -> Tensor:
    weight: Tensor = module.weight  # type: ignore[assignment]
    if isinstance(module, _TRANSPOSED):
        groups = module.groups
        spread = factor.view(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1)
        return spread.reshape(weight.shape[0], weight.shape[1], *[1] * (weight.ndim - 2))
    return factor.view(-1, *[1] * (weight.ndim - 1))

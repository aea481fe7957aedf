"""Checkpoints without pickle: one safetensors file whose header carries the rest as JSON; written atomically."""

from pathlib import Path
from typing import Any

import msgspec
import safetensors
import torch
from safetensors.torch import save as serialize
from torch import Tensor, nn
from torch.optim import Optimizer

from gossamer.artifact.files import write_file
from gossamer.errors import TrainingError
from gossamer.train.identity import weights_digest
from gossamer.train.state import Epoch, State, weights_of

NAME = "checkpoint.safetensors"
FORMAT = 2


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    run: str
    start: str
    step: int
    history: list[Epoch]
    loss_sum: float
    loss_count: int
    seconds: float
    kept: int
    optimizer: dict[str, dict[str, float | int | bool | None]]
    groups: list[dict[str, Any]]


def save(folder: Path, run: str, state: State, module: nn.Module, optimizer: Optimizer) -> None:
    """Write everything a run needs to continue as if it had not stopped.

    Args:
        folder: made if missing.
        run: what identifies the run; a checkpoint of another is refused by :func:`restore`.
        state: where the run stands.
        module: the model.
        optimizer: its optimizer; state values may be tensors or plain numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": tensor for name, tensor in weights_of(module).items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    kept = optimizer.state_dict()
    plain: dict[str, dict[str, Any]] = {}
    for index, values in kept["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value.detach().cpu().clone().contiguous()
            else:
                plain.setdefault(str(index), {})[name] = value
    tensors |= {f"random.{name}": value for name, value in _random_state().items()}
    header = _Header(
        format=FORMAT,
        run=run,
        start=state.start,
        step=state.step,
        history=state.history,
        loss_sum=state.loss_sum,
        loss_count=state.loss_count,
        seconds=state.seconds,
        kept=state.kept,
        optimizer=plain,
        groups=kept["param_groups"],
    )
    text = msgspec.json.encode(header).decode()
    write_safetensors(folder / NAME, tensors, {"checkpoint": text})


def restore(folder: Path, run: str, module: nn.Module, optimizer: Optimizer) -> State | None:
    """Load a checkpoint into the model, the optimizer and torch's random state; return None if there is none.

    The model must be as the run began with, or as it left it.

    Raises:
        TrainingError: the file is damaged, of another run, or does not fit the model.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = msgspec.json.decode((file.metadata() or {}).get("checkpoint", ""), type=_Header)
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, msgspec.MsgspecError, OSError) as error:
        raise TrainingError(f"{path}: not a checkpoint: {error}", hint="delete it to start anew") from error
    known = header.start, weights_digest(_under("model.", tensors)), weights_digest(_under("best.", tensors))
    start = weights_digest(module.state_dict())
    if header.format != FORMAT or header.run != run or start not in known:
        raise TrainingError(
            f"{path}: belongs to a run with other settings, data or model",
            hint="name another folder (--work), or start anew (--restart; from Python, delete it)",
        )
    try:
        module.load_state_dict(_under("model.", tensors))
    except RuntimeError as error:
        raise TrainingError(f"{path}: does not fit the model: {error}") from error
    optimizer_state: dict[int, dict[str, Any]] = {int(index): dict(v) for index, v in header.optimizer.items()}
    for name, tensor in _under("optimizer.", tensors).items():
        index, _, key = name.partition(".")
        optimizer_state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": optimizer_state, "param_groups": header.groups})
    _set_random_state(_under("random.", tensors))
    return State(
        start=header.start,
        step=header.step,
        history=header.history,
        loss_sum=header.loss_sum,
        loss_count=header.loss_count,
        seconds=header.seconds,
        kept=header.kept,
        best=_under("best.", tensors),
    )


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file beside its place and move it there, so that a crash leaves the old file or the new."""
    write_file(path, [serialize(tensors, metadata=metadata)])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _random_state() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _set_random_state(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    for name, state in states.items():
        if name.startswith("cuda."):
            torch.cuda.set_rng_state(state, int(name.removeprefix("cuda.")))


def save_weights(path: Path, module: nn.Module) -> None:
    """Write a module's state dict as safetensors, atomically; tensors that share memory are each written."""
    write_safetensors(path, weights_of(module))

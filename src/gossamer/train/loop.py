"""The training loop.

Everything random in it is a function of the seed, the epoch and the step, or part of the checkpoint, so that a run that
was stopped and resumed ends with the same bits as one that was not. Device, number format and processes come from
Lightning Fabric.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim import Optimizer

from gossamer.errors import TrainingError
from gossamer.lock import locked
from gossamer.model.penalty import StepContext
from gossamer.model.subject import Subject
from gossamer.task import Batch, Change, Task, evaluate
from gossamer.task.evaluation import check_fit, mean_loss, told
from gossamer.train import checkpoint
from gossamer.train.augment import augmented
from gossamer.train.identity import identity, weights_digest
from gossamer.train.interrupt import Interrupt, deferred
from gossamer.train.optimizer import make_optimizer
from gossamer.train.rates import rate
from gossamer.train.settings import Training
from gossamer.train.state import Epoch, State, TrainResult, weights_of

Schedule = Callable[[int, int], bool | None]
"""Called as ``schedule(step, total)`` before optimizer step ``step`` (0 is the first). It may change the values of the
subject's constraints and returns True when it did: weights kept as best so far are then dropped, since they satisfy
other constraints."""


def train(
    subject: Subject | nn.Module,
    task: Task,
    training: Training,
    *,
    schedule: Schedule | None = None,
    settled: Callable[[int], int] | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    fabric: Fabric | None = None,
) -> TrainResult:
    """Train a subject, or any module, in place.

    After each epoch the model is evaluated on validation data; at the end it has the weights of the best epoch (or of
    the last, as ``training.keep`` says). A subject's penalties are added to the loss, and their proximal steps follow
    the optimizer's.

    Args:
        subject: what to train; its mode, device and which parameters train are as before afterwards.
        task: data, loss and metrics; the test split is not touched.
        training: the settings.
        schedule: see :data:`Schedule`; names and shapes in the state dict must stay.
        settled: from all optimizer steps to the last before which ``schedule`` changes anything; patience counts the
            epochs after it.
        folder: for the checkpoint, written after each epoch and on an interrupt. If it holds a checkpoint of the same
            run, training continues from there, to the same bits.
        progress: bars to add one of these steps to.
        on_epoch: called after each epoch.
        fabric: device, precision and processes; by default one accelerator, or the CPU.

    Raises:
        TrainingError: a loss that is not finite; nothing to train; a checkpoint that does not fit.
        TaskError: outputs or data that do not fit the task.
        BusyError: another training is going on in ``folder``.
        KeyboardInterrupt: after the step under way, with a checkpoint left in ``folder``.
    """
    fabric = fabric or Fabric(accelerator="auto", devices=1, precision=training.precision)
    module = subject if isinstance(subject, nn.Module) else subject.model
    check_fit(module, task)
    alone = locked(folder) if folder is not None and fabric.is_global_zero else nullcontext()
    with alone, _as_before(module), _own_randomness(training.seed), deferred() as interrupt:
        optimizer = make_optimizer(module, training)
        wrapped, wrapped_optimizer = fabric.setup(module, optimizer)
        run = _Run(
            subject,
            module,
            wrapped,
            optimizer,
            wrapped_optimizer,
            fabric,
            task,
            training,
            schedule,
            settled,
            interrupt,
        )
        return _trained(run, folder, progress, on_epoch)


@dataclass(frozen=True)
class _Run:
    """What does not change during a run."""

    subject: Subject | nn.Module
    module: nn.Module
    wrapped: nn.Module
    optimizer: Optimizer
    wrapped_optimizer: Optimizer
    fabric: Fabric
    task: Task
    training: Training
    schedule: Schedule | None
    settled: Callable[[int], int] | None
    interrupt: Interrupt

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch; samples left over by whole batches wait for another epoch's order."""
        return max(1, len(self.task.train) // (self.training.batch_size * self.fabric.world_size))

    @property
    def changes(self) -> tuple[Change, ...]:
        """Random changes of training images."""
        return self.task.augment if self.training.augment is None else self.training.augment

    @property
    def total(self) -> int:
        return self.steps * self.training.epochs

    def patient(self, state: State) -> bool:
        """Whether epochs without a better metric may end the training where ``state`` is."""
        return bool(self.training.patience) and (self.settled is None or state.step > self.settled(self.total))


def _trained(
    run: _Run, folder: Path | None, progress: Progress | None, on_epoch: Callable[[Epoch], None] | None
) -> TrainResult:
    name = identity(run.task, run.training)
    state = checkpoint.restore(folder, name, run.module, run.optimizer) if folder else None
    state = state or State(start=weights_digest(run.module.state_dict()))
    bar = _Bar(progress, run)

    def save() -> None:
        if folder is not None and run.fabric.is_global_zero:
            checkpoint.save(folder, name, state, run.module, run.optimizer)

    while not (stopped := _stopped(run, state)):
        started = time.monotonic() - state.seconds
        run.wrapped.train()
        for batch in _batches(run, state):
            _step(run, state, batch)
            bar.show(state)
            if run.interrupt.asked:
                state.seconds = time.monotonic() - started
                save()
                raise KeyboardInterrupt
        figures = evaluate(run.module, run.task)
        state.seconds = time.monotonic() - started
        _finish_epoch(run, state, figures)
        save()
        if on_epoch is not None:
            on_epoch(state.history[-1])
        if run.interrupt.asked:
            raise KeyboardInterrupt
    if run.training.keep == "best" and state.best:
        run.module.load_state_dict(state.best)
    kept = state.kept if run.training.keep == "best" and state.best else state.epoch
    bar.close()
    return TrainResult(
        history=tuple(state.history),
        kept=kept,
        validation=state.history[kept - 1].validation,
        steps=state.step,
        seconds=state.seconds,
        stopped="finished" if stopped == "finished" else "patience",
    )


def _step(run: _Run, state: State, batch: Batch) -> None:
    """Do one optimizer step and count it.

    Raises:
        TrainingError: the loss is not finite, or has no gradient.
    """
    if run.schedule is not None and run.schedule(state.step, run.total):
        state.forget_best()
    lr = rate(run.training.schedule, state.step, run.total, run.training.lr)
    for group in run.optimizer.param_groups:
        own = group.get("own")
        group["lr"] = lr if own is None else rate(run.training.schedule, state.step, run.total, own)
    with told("the model", "in training"):
        outputs = run.wrapped(*batch.args, **batch.kwargs)
    loss = _loss(run, state, batch, outputs)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss is {value} at step {state.step + 1} (epoch {state.epoch + 1}, learning rate {lr:.3g})",
            hint="a lower lr, or clip, may help",
        )
    if not loss.requires_grad:
        raise TrainingError("the loss does not depend on any parameter that trains", hint="is it detached?")
    run.wrapped_optimizer.zero_grad()
    run.fabric.backward(loss)
    if run.training.clip:
        run.fabric.clip_gradients(run.wrapped, run.wrapped_optimizer, max_norm=run.training.clip)
    run.wrapped_optimizer.step()
    if isinstance(run.subject, Subject):
        # Under momentum a lasting gradient moves a weight by lr / (1 - momentum) per step: proximal steps keep up.
        size = lr / (1 - run.optimizer.param_groups[0].get("momentum", 0.0))
        with torch.no_grad():
            for penalty in run.subject.penalties:
                penalty.proximal(run.subject, size)
    state.step += 1
    state.loss_sum += value
    state.loss_count += 1


def _loss(run: _Run, state: State, batch: Batch, outputs: object) -> Tensor:
    """Return the task's loss with the terms of the subject's penalties added."""
    loss = mean_loss(run.task.loss, outputs, batch.targets)
    if not isinstance(run.subject, Subject) or not run.subject.penalties:
        return loss
    samples, done = len(run.task.train), state.step
    context = StepContext(run.subject, batch.args, batch.kwargs, outputs, batch.targets, loss, samples, done)
    with run.fabric.autocast():  # a teacher runs in the number format of its student
        terms = [penalty.term(context) for penalty in run.subject.penalties]
    return sum((term for term in terms if term is not None), start=loss)


def _batches(run: _Run, state: State) -> Iterator[Batch]:
    """Yield this process's batches of the epoch under way, from the step the state is at."""
    size, world = run.training.batch_size, run.fabric.world_size
    order = run.task.train.order(_generator(run.training.seed, state.epoch))
    for step in range(state.step - state.epoch * run.steps, run.steps):
        first = (step * world + run.fabric.global_rank) * size
        generator = _generator(run.training.seed, state.epoch, 1 + step * world + run.fabric.global_rank)
        batch = augmented(run.task.train.batch(order[first : first + size]), run.changes, generator)
        yield batch.to(run.fabric.device)


def _finish_epoch(run: _Run, state: State, figures: dict[str, float]) -> None:
    """Record the epoch and keep its weights if they are the best so far."""
    main = run.task.metrics[run.task.main]
    kept = state.history[state.kept - 1].validation[run.task.main] if state.best else None
    best = not math.isnan(figures[run.task.main]) and (kept is None or main.better(figures[run.task.main], kept))
    if best:
        state.kept, state.best = state.epoch + 1, weights_of(run.module)
    record = Epoch(
        epoch=state.epoch + 1,
        step=state.step,
        train_loss=state.loss_sum / max(state.loss_count, 1),
        validation=figures,
        seconds=state.seconds,
        best=best,
    )
    state.history.append(record)
    state.loss_sum, state.loss_count = 0.0, 0


def _stopped(run: _Run, state: State) -> str:
    """Say why training is over, or return an empty string."""
    if state.epoch >= run.training.epochs:
        return "finished"
    if run.patient(state) and state.kept and state.epoch - state.kept >= run.training.patience:
        return "patience"
    return ""


class _Bar:
    """A progress bar of one training, if there is a display."""

    def __init__(self, progress: Progress | None, run: _Run) -> None:
        self.progress, self.run = progress, run
        self.bar = None if progress is None else progress.add_task("training", total=run.total)

    def show(self, state: State) -> None:
        if self.progress is None or self.bar is None:
            return
        main = self.run.task.main
        last = f", {main} {state.history[-1].validation[main]:.4f}" if state.history else ""
        epoch = f"epoch {state.epoch + 1}/{self.run.training.epochs}"
        told = f"{epoch}, loss {state.loss_sum / max(state.loss_count, 1):.4f}{last}"
        self.progress.update(self.bar, completed=state.step, description=told)

    def close(self) -> None:
        if self.progress is not None and self.bar is not None:
            self.progress.remove_task(self.bar)


def _generator(*numbers: int) -> torch.Generator:
    """Return a generator seeded by all of ``numbers``."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % 2**63
    return torch.Generator().manual_seed(seed)


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seed torch while the block runs; the caller's random state is as before afterwards."""
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        torch.manual_seed(seed)
        yield


@contextmanager
def _as_before(module: nn.Module) -> Iterator[None]:
    """Restore each submodule's mode, and the module's device, after the block."""
    modes = [(part, part.training) for part in module.modules()]
    parameter = next(module.parameters(), None)
    device = None if parameter is None else parameter.device
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        if device is not None:
            module.to(device)
        for parameter in module.parameters():
            parameter.grad = None

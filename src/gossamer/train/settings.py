"""The settings of training."""

from typing import Annotated, Literal

from msgspec import Meta

from gossamer.settings import Settings
from gossamer.task import Change


class Training(Settings, frozen=True):
    """How a model is trained.

    Raises:
        SettingError: a value out of range.
    """

    epochs: Annotated[int, Meta(ge=1, description="passes over the training data")] = 10
    lr: Annotated[float, Meta(gt=0, description="highest learning rate")] = 1e-3
    optimizer: Annotated[Literal["adamw", "sgd"], Meta(description="AdamW, or SGD with Nesterov momentum 0.9")] = (
        "adamw"
    )
    weight_decay: Annotated[float, Meta(ge=0, description="decay of tensors of two or more dimensions")] = 0.0
    schedule: Annotated[Literal["one_cycle", "cosine", "constant"], Meta(description="course of the learning rate")] = (
        "one_cycle"
    )
    batch_size: Annotated[int, Meta(ge=1, description="samples per step and process")] = 128
    clip: Annotated[float, Meta(ge=0, description="largest norm of the gradient; 0 does not limit it")] = 0.0
    patience: Annotated[
        int, Meta(ge=0, description="stop after this many epochs without a better validation metric; 0 never stops")
    ] = 0
    keep: Annotated[
        Literal["best", "last"], Meta(description="which epoch's weights are kept, the best by validation or the last")
    ] = "best"
    augment: Annotated[
        tuple[Change, ...] | None, Meta(description="random changes of training images; the task's own if not given")
    ] = None
    precision: Annotated[
        Literal["32-true", "bf16-mixed", "16-mixed"],
        Meta(description="number format of the forward pass; bf16 pays only where the processor computes in it"),
    ] = "32-true"
    seed: Annotated[int, Meta(ge=0, lt=2**31, description="seed of order, augmentation and dropout")] = 0

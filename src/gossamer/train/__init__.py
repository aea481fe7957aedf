"""One readable training loop, on Lightning Fabric, with exact resume."""

from gossamer.train.loop import train
from gossamer.train.settings import Training
from gossamer.train.state import Epoch, TrainResult

__all__ = ["Epoch", "TrainResult", "Training", "train"]

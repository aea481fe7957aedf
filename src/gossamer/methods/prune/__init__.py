"""Pruning: weights become zero and stay zero."""

from gossamer.methods.prune.blocks import Blocks
from gossamer.methods.prune.feedback import Feedback
from gossamer.methods.prune.lamp import Lamp
from gossamer.methods.prune.magnitude import Magnitude
from gossamer.methods.prune.obd import Obd
from gossamer.methods.prune.obs import Obs
from gossamer.methods.prune.snip import Snip
from gossamer.methods.prune.sparsegpt import SparseGpt
from gossamer.methods.prune.surgery import Surgery
from gossamer.methods.prune.threshold import Threshold
from gossamer.methods.prune.units import Units
from gossamer.methods.prune.wanda import Wanda
from gossamer.model import Method

METHODS: tuple[type[Method], ...] = (
    Magnitude,
    Threshold,
    Lamp,
    Snip,
    Obd,
    Wanda,
    Obs,
    SparseGpt,
    Surgery,
    Feedback,
    Units,
    Blocks,
)

__all__ = [
    "METHODS",
    "Blocks",
    "Feedback",
    "Lamp",
    "Magnitude",
    "Obd",
    "Obs",
    "Snip",
    "SparseGpt",
    "Surgery",
    "Threshold",
    "Units",
    "Wanda",
]

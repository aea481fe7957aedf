"""Calibration: one pass over data that collects the evidence methods ask for, and repair that needs no labels."""

from gossamer.calibrate.collect import calibrate
from gossamer.calibrate.repair import reset_batch_norm
from gossamer.calibrate.store import load_evidence, save_evidence
from gossamer.calibrate.trials import tried
from gossamer.model.evidence import Evidence, Mean, Moment
from gossamer.model.layout import Layout, Reading

__all__ = [
    "Evidence",
    "Layout",
    "Mean",
    "Moment",
    "Reading",
    "calibrate",
    "load_evidence",
    "reset_batch_norm",
    "save_evidence",
    "tried",
]

"""Reports: measured numbers per site, per step and in total, each marked ``measured`` or ``computed``."""

from gossamer.figure import Figure, computed, measured
from gossamer.report.sentences import amount, sentences, step_sentences, summary
from gossamer.report.sheet import Sheet
from gossamer.report.structs import (
    Agreed,
    Effect,
    Report,
    SiteState,
    Skipped,
    State,
    StepReport,
    effect,
    load,
    save,
    to_json,
)
from gossamer.report.tables import render, show

__all__ = [
    "Agreed",
    "Effect",
    "Figure",
    "Report",
    "Sheet",
    "SiteState",
    "Skipped",
    "State",
    "StepReport",
    "amount",
    "computed",
    "effect",
    "load",
    "measured",
    "render",
    "save",
    "sentences",
    "show",
    "step_sentences",
    "summary",
    "to_json",
]

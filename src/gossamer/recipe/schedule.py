"""The gradual schedule of Zhu & Gupta, "To prune, or not to prune", 2017 (arXiv 1710.01878), equation 1.

From step t0 to step t0 + n·Δt the strength is s_t = s_f + (s_i - s_f)·(1 - (t - t0)/(n·Δt))³, changed every Δt steps:
fast at first, while redundant weights are plenty, and slower as fewer remain.
"""

from typing import Annotated

import msgspec

from gossamer.errors import SettingError
from gossamer.settings import Settings

Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class Cubic(Settings, frozen=True):
    """Ramp a method's strength from ``initial`` to its own value while the step trains.

    Raises:
        SettingError: a value out of range, or ``begin`` not before ``end``.
    """

    begin: Annotated[float, msgspec.Meta(ge=0.0, le=1.0, description="where the ramp starts, share of training")] = 0.0
    end: Annotated[float, msgspec.Meta(ge=0.0, le=1.0, description="where the ramp ends, share of training")] = 0.5
    every: Annotated[int, msgspec.Meta(ge=1, description="optimizer steps between two changes")] = 50
    initial: Annotated[float, msgspec.Meta(ge=0.0, le=1.0, description="strength at the start of the ramp")] = 0.0

    def __post_init__(self) -> None:
        """Check the fields one by one, then together."""
        super().__post_init__()
        if self.begin >= self.end:
            raise SettingError(f"Cubic.begin: wanted less than end ({self.end}), got {self.begin}")

    def last(self, total: int) -> int:
        """Return the optimizer step, of ``total``, before which the final strength is set; the last one at most."""
        return min(round(self.end * total), max(total - 1, 0))

    def strength(self, step: int, total: int, final: float) -> float:
        """Return the strength in force at optimizer step ``step`` of ``total``.

        Args:
            step: how many optimizer steps are done (0 before the first).
            total: optimizer steps of the whole training.
            final: the method's own strength, s_f.
        """
        first, last = round(self.begin * total), self.last(total)
        if step >= last:
            return final
        if step < first:
            return self.initial
        done = (step - first) // self.every * self.every
        return self.initial + (final - self.initial) * (1 - (1 - done / (last - first)) ** 3)

    def is_due(self, step: int, total: int) -> bool:
        """Return whether ``step`` of ``total`` comes a whole number of times ``every`` after the start of the ramp."""
        first = round(self.begin * total)
        return step >= first and (step - first) % self.every == 0

    def changes(self, step: int, total: int) -> bool:
        """Return whether the strength may differ between ``step`` - 1 and ``step``."""
        last = self.last(total)
        return step == last or (step < last and self.is_due(step, total))

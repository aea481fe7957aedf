"""Evidence: what one calibration pass saw, per site: second moments, means and ranges of inputs, gradients of weights.

All numbers are sums or extremes over the calibration batches, so evidence of two passes over the same batches is
equal. Kinds: ``second_moment``, ``mean``, ``range``, ``peak``, ``gradient`` and ``curvature`` of sites, ``cell``, the
ranges of the cell states of LSTM layers (with ``range``), ``activity`` and ``taylor`` of groups of units, ``depth`` of
residual blocks (``depth:PATTERN`` of the modules that a glob pattern names), ``shift`` of what layers make on their
grids, and ``examples``, some of the batches themselves for methods that run the model; a method names those it uses in
``needs``. Beside them, the rise of the loss under each trial that a
method asks for (``Method.trials``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from gossamer.errors import EvidenceError
from gossamer.model.layout import Layout

KINDS: Final = frozenset(
    {
        "second_moment",
        "mean",
        "range",
        "cell",
        "peak",
        "gradient",
        "curvature",
        "activity",
        "taylor",
        "depth",
        "shift",
        "examples",
    }
)
Example = tuple[tuple[Any, ...], Mapping[str, Any], Any]
"""What a model is called with, by position and by keyword, and the targets."""
T = TypeVar("T")


@dataclass(frozen=True)
class Moment:
    """Second moment of the inputs that one part of a site multiplies.

    Attributes:
        layout: the part, and how it is read as a matrix (outputs, inputs).
        total: sum over rows x of x xᵀ, float32 (inputs, inputs); its diagonal (inputs,) for an embedding's table.
        count: number of rows x.
    """

    layout: Layout
    total: Tensor
    count: int

    @property
    def diagonal(self) -> Tensor:
        """Return the sum of x² per input, shape (inputs,)."""
        return self.total if self.total.ndim == 1 else self.total.diagonal()

    @property
    def expected(self) -> Tensor:
        """Return the mean of x xᵀ, or of x², float64."""
        return self.total.double() / max(self.count, 1)

    def about(self, mean: "Mean") -> Tensor:
        """Return the covariance of the inputs, or the variances, float64."""
        mu = mean.vector.double()
        return self.expected - (mu.square() if self.total.ndim == 1 else mu[:, None] * mu)


@dataclass(frozen=True)
class Mean:
    """Mean of the inputs that one part of a site multiplies: ``vector`` is float32 (inputs,) over ``count`` rows."""

    layout: Layout
    vector: Tensor
    count: int


@dataclass(frozen=True)
class Activity:
    """How active the units of a group are where they are read.

    Attributes:
        mean: mean of the absolute value, float32 (units,).
        nonzero: share of values that are not zero, float32 (units,).
    """

    mean: Tensor
    nonzero: Tensor


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything calibration collected. Read through the methods, which explain what is missing.

    Attributes:
        kinds: kinds of evidence that were asked for.
        batches: number of batches seen.
        unread: why a site has no inputs recorded, or which of its uses could not be read.
        kept: the first batches, as many as fit in bounded memory, if examples were asked for. Not saved.
        loss: what maps (outputs, targets) to a scalar, if calibration was given it. Not saved.
        progress: bars to which a method that takes long adds one. Not saved.
    """

    kinds: frozenset[str]
    batches: int
    moments: Mapping[str, tuple[Moment, ...]] = field(default_factory=dict)
    means: Mapping[str, tuple[Mean, ...]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    averages: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    sampled: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    peaks: Mapping[str, Tensor] = field(default_factory=dict)
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    fishers: Mapping[str, Tensor] = field(default_factory=dict)
    curvatures: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    sensitivities: Mapping[str, Tensor] = field(default_factory=dict)
    activities: Mapping[str, Activity] = field(default_factory=dict)
    taylors: Mapping[str, Tensor] = field(default_factory=dict)
    depths: Mapping[str, float] = field(default_factory=dict)
    rises: Mapping[str, float] = field(default_factory=dict)
    shifts: Mapping[str, Tensor] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    kept: tuple[Example, ...] = ()
    loss: Callable[[Any, Any], Tensor] | None = None
    progress: Progress | None = None

    def second_moment(self, site: str) -> tuple[Moment, ...]:
        """Return the second moments of the inputs of ``site``, one per part of it that has inputs of its own.

        A linear or recurrent weight has one; a convolution has one per group; an attention's joint projection one
        per slice that is multiplied with a separate input; a tied embedding one per way it is used.

        Raises:
            EvidenceError: not collected, or the site was not seen.
        """
        return self._get("second_moment", self.moments, site)

    def mean(self, site: str) -> tuple[Mean, ...]:
        """Return the mean inputs of ``site``, part by part as ``second_moment``.

        Raises:
            EvidenceError: not collected, or the site was not seen.
        """
        return self._get("mean", self.means, site)

    def range(self, site: str) -> tuple[float, float]:
        """Return the smallest and largest number that entered ``site`` (padding zeros are not counted).

        Raises:
            EvidenceError: not collected, or the site was not seen.
        """
        return self._get("range", self.ranges, site)

    def average_range(self, site: str) -> tuple[float, float]:
        """Return the moving averages of the smallest and the largest number that entered ``site`` in each batch.

        Collected with ``range``.

        Raises:
            EvidenceError: not collected, or the site was not seen.
        """
        return self._get("range", self.averages, site)

    def samples(self, site: str) -> NDArray[np.float32]:
        """Return a uniform sample, of bounded size, of the numbers that entered ``site``: float32, 1-d.

        Collected with ``range``.

        Raises:
            EvidenceError: not collected, or the site was not seen.
        """
        return self._get("range", self.sampled, site)

    def peak(self, site: str) -> Tensor:
        """Return the largest absolute value that entered each input of ``site``, float32 (inputs,).

        Of weights that are multiplied row by row: those of linear and recurrent layers and of attention. Parts that
        have inputs of their own count together.

        Raises:
            EvidenceError: not collected, or the site was not seen or is multiplied in another way.
        """
        return self._get("peak", self.peaks, site)

    def gradient(self, site: str) -> Tensor:
        """Return the gradient of the batch loss by the weight of ``site``, averaged over batches: the weight's shape.

        Raises:
            EvidenceError: not collected, or the site was not seen.
        """
        return self._get("gradient", self.gradients, site)

    def fisher(self, site: str) -> Tensor:
        """Return the mean over batches of the squared gradient: the diagonal of the empirical Fisher information.

        Collected with ``gradient``; the gradient is that of a batch's loss, so it shrinks as batches grow.

        Raises:
            EvidenceError: not collected, or the site was not seen.
        """
        return self._get("gradient", self.fishers, site)

    def curvature(self, site: str) -> tuple[Tensor, ...]:
        """Return the curvature g of the loss in each output of each part of ``site``, parts as in ``second_moment``.

        Float32 (outputs,), such that a change e of row r of the part's matrix raises the loss per target, in nats, by
        about ½ g_r e H eᵀ, H being the mean second moment of its inputs.

        Raises:
            EvidenceError: not collected, or no gradient reached the site.
        """
        return self._get("curvature", self.curvatures, site)

    def sensitivity(self, parameter: str) -> Tensor:
        """Return the curvature of the loss in each number of a parameter that is no site, such as a bias: its shape.

        Collected with ``curvature``.

        Raises:
            EvidenceError: not collected, or no gradient reached the parameter.
        """
        return self._get("curvature", self.sensitivities, parameter)

    def activity(self, group: str) -> Activity:
        """Return how active the units of ``group`` are.

        Raises:
            EvidenceError: not collected, or no reader of the group was seen.
        """
        return self._get("activity", self.activities, group)

    def taylor(self, group: str) -> Tensor:
        """Return the mean over batches of ``abs(sum of activation times gradient)`` of each unit, float32 (units,).

        With batches of one sample this is the criterion of Molchanov et al. (2017).

        Raises:
            EvidenceError: not collected, or nothing reads the group.
        """
        return self._get("taylor", self.taylors, group)

    def depth(self, block: str) -> float:
        """Return by how much the loss rises, on the mean over batches, when the module ``block`` alone is passed by.

        Infinite if a loss without it is not finite.

        Raises:
            EvidenceError: not collected, or the module was not among the blocks.
        """
        return self._get("depth", self.depths, block)

    def rise(self, trial: str) -> float:
        """Return what the loss rises by under a trial, per target: infinite if the outputs are not finite.

        Raises:
            EvidenceError: no trial of that name was measured.
        """
        if trial not in self.rises:
            raise EvidenceError(
                f"no trial {trial!r} was measured", hint="measure those a method asks for with gossamer.calibrate.tried"
            )
        return self.rises[trial]

    def examples(self) -> tuple[Example, ...]:
        """Return batches that calibration saw, for a method that runs copies of the model on them.

        Raises:
            EvidenceError: not collected.
        """
        if not self.kept:
            have = ", ".join(sorted(self.kinds)) or "nothing"
            raise EvidenceError(
                f"no examples were kept: calibration was asked for {have}",
                hint="calibrate with needs including 'examples'; they are not saved with evidence",
            )
        return self.kept

    def shift(self, site: str) -> Tensor:
        """Return by how much grids move the mean of each channel that the layer of ``site`` makes, float32 (outputs,).

        Layers that run before it are taken to be corrected by their own shifts already.

        Raises:
            EvidenceError: not collected, or the layer is on no grid or was not seen.
        """
        return self._get("shift", self.shifts, site)

    def has(self, kind: str) -> bool:
        """Return whether evidence of ``kind`` was asked for."""
        return kind in self.kinds

    def _get(self, kind: str, found: Mapping[str, T], site: str) -> T:
        if site in found:
            return found[site]
        if kind not in self.kinds:
            have = ", ".join(sorted(self.kinds)) or "nothing"
            raise EvidenceError(
                f"no {kind} was collected for {site}: calibration was asked for {have}",
                hint=f"calibrate with needs including {kind!r}",
            )
        raise EvidenceError(f"no {kind} for {site}: {self.unread.get(site, 'nothing of that name was calibrated')}")

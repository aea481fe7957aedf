"""Mixed precision: each site as wide as the loss wants it and a budget allows.

What a site loses at each width is measured with that site alone quantized, or estimated from the curvature of the loss
(HAWQ-V2, see `estimates`); losses are taken to add up, and a knapsack assigns the widths (`knapsack`). Allocating bits
under a budget like this goes back to Shoham and Gersho, "Efficient Bit Allocation for an Arbitrary Set of Quantizers",
IEEE Trans. ASSP 36, 1988; for networks, Dong et al., "HAWQ-V2", NeurIPS 2020 (arXiv 1911.03852) and Yao et al.,
"HAWQ-V3", ICML 2021 (arXiv 2011.10680), whose limits on size and on bit operations these are. Bytes are those of the
coded tensors, entropy coding included, so a site of few distinct values is as cheap as it is in the file.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from gossamer.errors import EvidenceError
from gossamer.methods.quantize.assignment import (
    FLOAT,
    INTEGER,
    Table,
    within_bytes,
    within_latency,
    within_operations,
)
from gossamer.methods.quantize.estimates import by_curvature, by_trace
from gossamer.methods.quantize.post_training import PostTraining, States
from gossamer.methods.quantize.ranges import InputRange, Range
from gossamer.model import Evidence, Grid, Method, Plan, Subject, live_weight

Width = Literal[2, 3, 4, 5, 6, 7, 8, 16, 32]


class Mixed(Method, frozen=True, tag="quantize.mixed"):
    """Put each site on as many bits as it needs, under a limit of bytes, of bit operations or of time.

    Weights have one scale per output channel, and inputs are on 8 bits where the target multiplies in integers, as in
    `quantize.post_training`; a site of 8 bits has 7 where sums of 8-bit products saturate. At 16 bits inputs stay in
    floats, and at 32 the site is left as it is. Integer operators take as long at 2 bits as at 8, so fewer bits save
    bytes, and bit operations (multiply-accumulates times the bits of both factors) are a model of hardware that
    profits from each bit, not of time on ONNX Runtime. That is measured, layer by layer, for a limit of latency, which
    leaves layers in floats that lose more than they win.
    """

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"limit": 1_000_000, "widths": (4, 8)})

    limit: Annotated[
        Annotated[int, msgspec.Meta(ge=2)] | Annotated[float, msgspec.Meta(gt=0.0, le=1.0)],
        msgspec.Meta(description="most that may be left; from 0 to 1, a share of what 32-bit floats take"),
    ]
    of: Annotated[
        Literal["bytes", "bit_operations", "latency"],
        msgspec.Meta(
            description="what the limit is of: bytes of the weights file, its graph not counted; "
            "multiply-accumulates times bits of weight times bits of input (computed); or microseconds of one run of "
            "the example inputs on ONNX Runtime, one thread (measured)"
        ),
    ] = "bytes"
    widths: Annotated[
        tuple[Width, ...], msgspec.Meta(min_length=1, description="bits that a site may have; 32 leaves it as it is")
    ] = (2, 4, 8, 16, 32)
    measure: Annotated[
        Literal["loss", "curvature", "trace"],
        msgspec.Meta(
            description="what a site loses is measured with it alone quantized, on calibration data, or estimated "
            "from the curvature of the loss, or from its trace and the squared error"
        ),
    ] = "loss"
    weight_range: Annotated[
        Range, msgspec.Meta(description="range of the weights of a channel: minmax, mse, or a percentile")
    ] = "mse"
    input_range: Annotated[
        InputRange,
        msgspec.Meta(description="range of the inputs of a layer: minmax, mse, kl, average, or a percentile"),
    ] = "mse"
    inputs: Annotated[
        bool,
        msgspec.Meta(
            description="put the inputs of layers on 8 bits too; otherwise only storage gets smaller, and the target "
            "multiplies in integers where it quantizes inputs as they come: recurrent layers, linear ones of 4 bits"
        ),
    ] = True

    states: States = "dynamic"

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Ranges of inputs, and the curvature of the loss where it stands for the loss."""
        return frozenset({"range"} if self.measure == "loss" else {"range", "curvature"})

    def trials(self, subject: Subject, evidence: Evidence | None = None) -> Mapping[str, Plan]:
        """Return each site alone at each width, if the loss is what is measured."""
        if self.measure != "loss":
            return {}
        plans = self._plans(subject, evidence)
        return {_trial(site, width): plan.only(site) for width, plan in plans.items() for site in plan.constraints}

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return a grid of its own width for every chosen site that is not left as it is.

        Raises:
            PatternError: a pattern matches no site.
            EvidenceError: ranges or what measures the loss were not collected.
            ModelError: a weight is not finite; bit operations are limited and the graph was not seen.
            SettingError: the limit cannot be met.
            TargetError: latency is limited and the model cannot be exported.
        """
        plans = self._plans(subject, evidence)
        table = Table(self.tag, subject, plans, self._losses(subject, evidence, plans), floats=FLOAT in self.widths)
        return _WITHIN[self.of](table, self.limit)

    def _plans(self, subject: Subject, evidence: Evidence | None) -> dict[int, Plan]:
        """Return the plan of all sites at each width but that of floats."""
        return {
            width: PostTraining(
                include=self.include,
                exclude=self.exclude,
                weight_bits="auto" if width == INTEGER else width,
                weight_range=self.weight_range,
                input_range=self.input_range,
                inputs=self.inputs and width <= INTEGER,
                states=self.states if width <= INTEGER else "dynamic",
            ).plan(subject, evidence)
            for width in sorted({*self.widths} - {FLOAT})
        }

    def _losses(
        self, subject: Subject, evidence: Evidence | None, plans: Mapping[int, Plan]
    ) -> dict[str, dict[int, float]]:
        """Return what each site loses at each width; a site of which that is not known is missing."""
        found: dict[str, dict[int, float]] = {}
        for width, plan in plans.items():
            for site in plan.constraints:
                loss = self._loss(subject, evidence, site, width, plan)
                if loss is not None:
                    found.setdefault(site, {})[width] = loss
        return found

    def _loss(self, subject: Subject, evidence: Evidence | None, site: str, width: int, plan: Plan) -> float | None:
        if evidence is None:
            raise EvidenceError(f"{self.tag} was given no evidence", hint=f"calibrate with needs={set(self.needs)}")
        if self.measure == "loss":
            return evidence.rise(_trial(site, width))
        if evidence.has("curvature") and (site not in evidence.curvatures or site not in evidence.moments):
            return None
        weight = live_weight(subject, site).detach().cpu().float()
        (grid,) = (part for part in plan.on(site) if isinstance(part, Grid))
        rule = by_trace if self.measure == "trace" else by_curvature
        return rule(grid.snap(weight) - weight, evidence.second_moment(site), evidence.curvature(site))


_WITHIN = {"bytes": within_bytes, "bit_operations": within_operations, "latency": within_latency}


def _trial(site: str, width: int) -> str:
    return f"{site} in {width} bits"

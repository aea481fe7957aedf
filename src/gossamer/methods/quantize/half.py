"""Half precision: weights as bfloat16 or float16 numbers, half the bytes of float32 or less.

bfloat16 keeps the exponent of float32 and 8 significant bits (Kalamkar et al. 2019, arXiv 1905.12322), float16 (IEEE
754 binary16) has 11 significant bits and magnitudes up to 65504. Rounding is to the nearest, half to even.
"""

from typing import Annotated, Literal

import msgspec
import torch
from torch import Tensor

from gossamer.model import Constraints, Evidence, Method, Plan, Site, Skip, Subject, live_weight

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Half(Method, frozen=True, tag="quantize.half"):
    """Round weights to half precision, so that the file holds 16 bits or less of each.

    The model keeps its dtype and computes in it, on the target too; the bits that rounding cleared take no place in the
    file, nor in the ONNX model. Training moves weights off again, so this comes last. Zeros stay zero; shared values,
    weights on a grid and weights that are in half precision already are left alone.
    """

    dtype: Annotated[
        Literal["float16", "bfloat16"],
        msgspec.Meta(description="float16: 11 significant bits; bfloat16: 8, and the exponents of float32"),
    ] = "float16"

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return rounded values for every chosen site.

        Raises:
            PatternError: a pattern matches no site.
        """
        del evidence
        held = subject.constraints
        tensors: dict[str, Tensor] = {}
        skipped = []
        for site in self.chosen(subject):
            found = self._rounded(subject, site, held.get(site.name, Constraints()))
            if isinstance(found, str):
                skipped.append(Skip(site.name, found))
            else:
                tensors[site.name] = found
        return Plan(self.tag, tensors=tensors, skipped=tuple(skipped))

    def _rounded(self, subject: Subject, site: Site, held: Constraints) -> Tensor | str:
        """Return the new values of ``site``, or why it is left alone."""
        if held.shared:
            return "its values are shared"
        if held.grid is not None:
            return f"it is on a grid of {held.grid.bits} bits"
        weight = live_weight(subject, site.name)
        if weight.dtype not in (torch.float32, torch.float64):
            return f"it is {str(weight.dtype).removeprefix('torch.')} already"
        rounded = weight.to(_DTYPES[self.dtype]).to(weight.dtype)
        if not bool(torch.isfinite(rounded).all()):
            return f"it has values beyond those of {self.dtype}"
        return rounded

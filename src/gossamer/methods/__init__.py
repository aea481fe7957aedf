"""Every method, by family. Families do not know each other; this is the one place that knows them all."""

from typing import TYPE_CHECKING, TypeAlias, Union

from gossamer.methods import distill, factorize, prune, quantize, regularize, share
from gossamer.model import Method

METHODS: tuple[type[Method], ...] = (
    *prune.METHODS,
    *share.METHODS,
    *quantize.METHODS,
    *factorize.METHODS,
    *regularize.METHODS,
    *distill.METHODS,
)

if TYPE_CHECKING:
    AnyMethod: TypeAlias = Method
else:
    AnyMethod = Union[METHODS]  # noqa: UP007  msgspec reads the tag to find the member
"""The union of all methods: a field of this type is read and written by the methods' tags."""

__all__ = ["METHODS", "AnyMethod"]

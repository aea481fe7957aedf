"""Shared values as plain data: a table of centers, and which of them each value is.

Han, Mao and Dally 2016 (arXiv 1510.00149); with subvectors for values, Stock et al. 2020 (arXiv 1907.05686).
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from gossamer.errors import PlanError
from gossamer.model.nearest import nearest_center


def codes_dtype(count: int) -> torch.dtype:
    """Return the smallest dtype of codes that name one of ``count`` centers."""
    return torch.uint8 if count <= 1 << 8 else torch.int16 if count <= 1 << 15 else torch.int32


@dataclass(frozen=True, eq=False)
class Codebook:
    """Every value is one of a few shared centers.

    Attributes:
        codes: integer tensor of the site's shape, kept in the smallest dtype that holds them; each entry is an index
            into ``centers``. Torch takes only int32 and int64 for indices (uint8 for a mask): convert before indexing.
        centers: float tensor of shape ``(K,)``.
        trained: whether training moves the centers (their gradient is the sum over their members).
        shared: bool tensor of the site's shape: which values are shared so far, while the others train as they are;
            None for all. Lives while a step trains; ``settle`` gives each of the others its nearest center.
        starts: where rows (indices of the first dimension) have centers of their own, integers of shape ``(rows,)``:
            the place in ``centers`` where those of each row begin; they end at the next larger start. Else None.
        tie: where several sites have the same centers, a name for these: they stay the same while they train.
        width: how many values a codeword has, where neighbouring values are shared together (product quantization):
            ``centers`` are codewords one after another, and the codes of a subvector name the values of its codeword in
            order. Training moves codewords by the mean of their members' gradients, not the sum.
    """

    codes: Tensor
    centers: Tensor
    trained: bool = True
    shared: Tensor | None = None
    starts: Tensor | None = None
    tie: str = ""
    width: int = 1

    def __post_init__(self) -> None:
        if self.codes.is_floating_point() or self.codes.dtype == torch.bool:
            raise PlanError(f"Codebook.codes: wanted integers, got {self.codes.dtype}")
        if self.centers.ndim != 1 or not self.centers.is_floating_point() or not len(self.centers):
            got = f"{self.centers.dtype} {tuple(self.centers.shape)}"
            raise PlanError(f"Codebook.centers: wanted a non-empty float vector, got {got}")
        if not bool(torch.isfinite(self.centers).all()):
            raise PlanError("Codebook.centers: wanted finite values")
        if self.codes.numel() and not 0 <= int(self.codes.min()) <= int(self.codes.max()) < len(self.centers):
            raise PlanError(f"Codebook.codes: wanted indices below {len(self.centers)}, got {int(self.codes.max())}")
        if self.width != 1:
            self._check_width()
        if self.shared is not None and (self.shared.dtype != torch.bool or self.shared.shape != self.codes.shape):
            got = f"{self.shared.dtype} {tuple(self.shared.shape)}"
            raise PlanError(f"Codebook.shared: wanted a bool tensor of the codes' shape, got {got}")
        if self.shared is not None:
            object.__setattr__(self, "shared", self.shared.detach().cpu())
        object.__setattr__(self, "codes", self.codes.detach().to("cpu", codes_dtype(len(self.centers))))
        object.__setattr__(self, "centers", self.centers.detach().cpu())
        if self.starts is not None:
            object.__setattr__(self, "starts", self.starts.detach().to("cpu", torch.int64))
            self._check_starts()

    def _check_starts(self) -> None:
        if self.starts is None or self.starts.shape != self.codes.shape[:1]:
            got = None if self.starts is None else tuple(self.starts.shape)
            raise PlanError(f"Codebook.starts: wanted one for each of {len(self.codes)} rows, got {got}")
        for start, stop in self.pages:
            codes = self.codes[self.starts == start]
            if not start <= int(codes.min()) <= int(codes.max()) < stop:
                raise PlanError(f"Codebook.codes: wanted {start} to {stop - 1} in rows that start there")

    def _check_width(self) -> None:
        if self.width < 1 or len(self.centers) % self.width:
            raise PlanError(f"Codebook.width: {len(self.centers)} values are not codewords of {self.width}")
        if self.shared is not None or self.starts is not None or self.tie:
            raise PlanError("Codebook.width: codewords are those of one whole site, not of some values, rows or sites")

    @classmethod
    def of_words(cls, words: Tensor, codewords: Tensor, shape: tuple[int, ...], *, trained: bool = True) -> "Codebook":
        """Return the codebook of a site whose subvectors, neighbouring values, are codewords.

        Args:
            words: integers, as many as there are subvectors in C order; each is an index into ``codewords``.
            codewords: float tensor (K, width).
            shape: the site's shape.
            trained: as in the attributes.
        """
        width = codewords.shape[1]
        codes = words.reshape(-1, 1) * width + torch.arange(width)
        return cls(codes.view(shape), codewords.reshape(-1), trained, width=width)

    @cached_property
    def words(self) -> Tensor | None:
        """The codeword of each subvector, int64 (rows, subvectors of a row); None if there are none, or none whole.

        A cut may have gone through subvectors; their values are still shared, one by one.
        """
        row = self.codes[:1].numel()
        if self.width == 1 or not row or row % self.width:
            return None
        parts = self.codes.reshape(len(self.codes), -1, self.width)
        words = parts[..., 0].long() // self.width
        starts = (words * self.width).unsqueeze(-1).to(parts.dtype)
        return words if torch.equal(parts, starts + torch.arange(self.width, dtype=parts.dtype)) else None

    @property
    def size(self) -> int:
        """How many centers there are."""
        return len(self.centers)

    @cached_property
    def pages(self) -> tuple[tuple[int, int], ...]:
        """Where the centers begin and end that some rows have to themselves; all centers if rows have the same."""
        if self.starts is None or not len(self.starts):
            return ((0, self.size),)
        return tuple(pairwise((*sorted(set(self.starts.tolist())), self.size)))

    @property
    def most(self) -> int:
        """Most centers that a row has."""
        return max(stop - start for start, stop in self.pages)

    def nearest(self, values: Tensor) -> Tensor:
        """Return the code of the nearest center to each value, among those of its row."""
        if self.starts is None:
            return nearest_center(values, self.centers)
        codes = torch.zeros(values.shape, dtype=torch.int64)
        for start, stop in self.pages:
            rows = self.starts == start
            codes[rows] = nearest_center(values[rows], self.centers[start:stop]) + start
        return codes

"""The simplest method of each kind of constraint, to test the engine and the conformance checks themselves."""

from typing import ClassVar

import torch

from gossamer.model import Codebook, Grid, Mask, Method, Plan, Skip, Subject, live_weight


class Zero(Method, frozen=True, tag="test.zero"):
    """Keep the larger half of each site."""

    def plan(self, subject: Subject, evidence=None) -> Plan:
        masks = {}
        for site in self.chosen(subject):
            value = live_weight(subject, site.name).float().abs()
            masks[site.name] = Mask(value > value.flatten().median())
        return Plan(self.tag, masks)


class Share(Method, frozen=True, tag="test.share"):
    """Let each site share four values, by rank."""

    def plan(self, subject: Subject, evidence=None) -> Plan:
        books, skipped = {}, []
        for site in self.chosen(subject):
            held = subject.constraints.get(site.name)
            if held is not None and held.grid is not None and held.grid.axis is not None:
                skipped.append(Skip(site.name, "its grid has a scale per channel"))
                continue
            value = live_weight(subject, site.name)
            edges = torch.quantile(value.float().flatten(), torch.tensor([0.25, 0.5, 0.75]))
            codes = torch.bucketize(value.float(), edges)
            centers = torch.stack([value.float()[codes == code].sum() for code in range(4)])
            counts = torch.bincount(codes.flatten(), minlength=4).clamp_min(1)
            books[site.name] = Codebook(codes, (centers / counts).to(value.dtype))
        return Plan(self.tag, books, skipped=tuple(skipped))


class Round(Method, frozen=True, tag="test.round"):
    """Put each site on 8 bits with one scale."""

    rows: ClassVar[bool] = False

    def plan(self, subject: Subject, evidence=None) -> Plan:
        grids, skipped = {}, []
        for site in self.chosen(subject):
            held = subject.constraints.get(site.name)
            value = live_weight(subject, site.name).float()
            if held is not None and held.grid is not None:
                skipped.append(Skip(site.name, "it is on a grid already"))
            elif self.rows and (held is None or held.codebook is None):
                scale = value.abs().flatten(1).amax(1).clamp_min(1e-6) / 127
                grids[site.name] = Grid(scale, torch.zeros(len(scale), dtype=torch.int32), axis=0)
            else:
                low, high = min(value.min().item(), 0.0), max(value.max().item(), 0.0)
                scale = max(high - low, 1e-6) / 255
                grids[site.name] = Grid(torch.tensor(scale), torch.tensor(round(-low / scale)), signed=False)
        return Plan(self.tag, grids, skipped=tuple(skipped))


class RoundRows(Round, frozen=True, tag="test.round_rows"):
    """Put each site on 8 bits with one scale per row where its values are not shared."""

    rows: ClassVar[bool] = True


REFERENCES: tuple[type[Method], ...] = (Zero, Share, Round, RoundRows)

"""Evidence on disk: one safetensors file, so that an expensive calibration is run once."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from gossamer.errors import EvidenceError
from gossamer.model.evidence import Activity, Evidence, Mean, Moment
from gossamer.model.layout import Layout, Reading

_FORMAT = "gossamer evidence 1"


def save_evidence(path: str | Path, evidence: Evidence) -> None:
    """Write ``evidence`` to ``path``, without its examples and its loss."""
    arrays: dict[str, Tensor] = {}

    def put(tensor: Tensor) -> str:
        name = str(len(arrays))
        arrays[name] = tensor.contiguous()
        return name

    def part(layout: Layout, tensor: Tensor, count: int) -> list[Any]:
        return [layout.reading.value, layout.start, layout.stop, count, put(tensor)]

    document = {
        "format": _FORMAT,
        "kinds": sorted(evidence.kinds - {"examples"}),
        "batches": evidence.batches,
        "moments": {
            site: [part(each.layout, each.total, each.count) for each in moments]
            for site, moments in evidence.moments.items()
        },
        "means": {
            site: [part(each.layout, each.vector, each.count) for each in means]
            for site, means in evidence.means.items()
        },
        "ranges": evidence.ranges,
        "averages": evidence.averages,
        "sampled": {site: put(torch.from_numpy(numbers)) for site, numbers in evidence.sampled.items()},
        "peaks": {site: put(tensor) for site, tensor in evidence.peaks.items()},
        "gradients": {site: put(tensor) for site, tensor in evidence.gradients.items()},
        "fishers": {site: put(tensor) for site, tensor in evidence.fishers.items()},
        "curvatures": {site: [put(tensor) for tensor in parts] for site, parts in evidence.curvatures.items()},
        "sensitivities": {name: put(tensor) for name, tensor in evidence.sensitivities.items()},
        "activities": {group: [put(one.mean), put(one.nonzero)] for group, one in evidence.activities.items()},
        "taylors": {group: put(tensor) for group, tensor in evidence.taylors.items()},
        "depths": evidence.depths,
        "rises": evidence.rises,
        "shifts": {site: put(tensor) for site, tensor in evidence.shifts.items()},
        "unread": evidence.unread,
    }
    save_file(arrays, str(path), metadata={"evidence": json.dumps(document)})


def load_evidence(path: str | Path) -> Evidence:
    """Read what :func:`save_evidence` wrote.

    Raises:
        EvidenceError: the file is missing or is not saved evidence.
    """
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            document = json.loads((file.metadata() or {})["evidence"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  the file is no mapping
        if document["format"] != _FORMAT:
            raise EvidenceError(f"{path}: wanted {_FORMAT!r}, got {document['format']!r}")
        return _evidence(document, arrays)
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise EvidenceError(f"{path}: not saved evidence: {error}") from error


def _evidence(document: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> Evidence:
    def parts(entries: list[list[Any]]) -> list[tuple[Layout, Tensor, int]]:
        return [
            (Layout(Reading(reading), start, stop), arrays[name], count)
            for reading, start, stop, count, name in entries
        ]

    def tensors(group: str) -> dict[str, Tensor]:
        return {site: arrays[name] for site, name in document[group].items()}

    return Evidence(
        kinds=frozenset(document["kinds"]),
        batches=document["batches"],
        moments={site: tuple(Moment(*part) for part in parts(each)) for site, each in document["moments"].items()},
        means={site: tuple(Mean(*part) for part in parts(each)) for site, each in document["means"].items()},
        ranges={site: (low, high) for site, (low, high) in document["ranges"].items()},
        averages={site: (low, high) for site, (low, high) in document.get("averages", {}).items()},
        sampled={site: np.asarray(tensor.numpy()) for site, tensor in tensors("sampled").items()},
        peaks={site: arrays[name] for site, name in document.get("peaks", {}).items()},
        gradients=tensors("gradients"),
        fishers=tensors("fishers"),
        curvatures={site: tuple(arrays[name] for name in names) for site, names in document["curvatures"].items()},
        sensitivities=tensors("sensitivities"),
        activities={
            group: Activity(arrays[mean], arrays[share]) for group, (mean, share) in document["activities"].items()
        },
        taylors=tensors("taylors"),
        depths=document.get("depths", {}),
        rises=document.get("rises", {}),
        shifts={site: arrays[name] for site, name in document.get("shifts", {}).items()},
        unread=document["unread"],
    )

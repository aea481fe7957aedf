"""Feed damaged and hostile files to the reader and record how each one ends.

Two kinds. *Damaged*: bytes flipped, cut off, spliced, repeated or zeroed at random. *Resealed*: the same, and headers
rewritten field by field, with every checksum made to match, as a hostile writer would.

    python benchmarks/fuzz_artifact.py --count 20000 --seed 0 --output benchmarks/results/fuzz_artifact.json
"""

import argparse
import json
import random
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np

from gossamer.artifact import Artifact, container, dumps, layout, loads, problems
from gossamer.artifact.squeeze import deflate
from gossamer.coders import encode as code
from gossamer.codings import (
    Affine,
    Bitmap,
    Codebook,
    Coding,
    Dense,
    Entropy,
    Gaps,
    Hash,
    Packed,
    Paths,
    Planes,
    Reshape,
    Runs,
    Shift,
    Sparse,
    encode,
)
from gossamer.errors import ArtifactError

SECONDS = 1.0
Kind = Callable[[list[bytes], random.Random], bytes]


def seeds() -> list[bytes]:
    """Return small valid files that between them hold every node, model, coder and graph codec."""
    rng = np.random.default_rng(7)
    support = rng.random((24, 40)) < 0.12
    codes = rng.integers(0, 9, int(support.sum())).astype(np.uint8)
    centers = np.sort(rng.normal(size=9).astype(np.float32))
    weights = rng.normal(size=(16, 20)).astype(np.float32)

    def entropy(array: np.ndarray, alphabet: int, model: str, coder: str) -> Entropy:
        data = np.frombuffer(code(array, alphabet, model=model, coder=coder), np.uint8)
        return Entropy(data, array.shape, array.dtype.name, 0, alphabet, model, coder)

    gaps = (np.diff(np.flatnonzero(support), prepend=-1) - 1).astype(np.uint16)
    bits = np.packbits(support.reshape(-1), bitorder="little")
    full = np.zeros(support.shape, np.uint8)
    full[support] = codes + 1
    common = Dense(centers)
    sloped = rng.normal(size=(20, 1)) * rng.normal(size=(1, 30)) * 4 + rng.normal(size=(20, 30)) + 20
    plane = np.rint(sloped.clip(0, 39)).astype(np.uint8)
    every: dict[str, Coding] = {
        "gaps": Sparse(Gaps(entropy(gaps, int(gaps.max()) + 1, "static", "range"), support.shape), centers[codes]),
        "bitmap": Sparse(
            Bitmap(entropy(bits, 256, "adaptive", "ans"), support.shape),
            Codebook(entropy(codes, 9, "adaptive", "range"), centers),
        ),
        "mixed": Codebook(entropy(full, 10, "mixed", "ans"), np.append(np.float32(0), centers)),
        "mixed.range": Codebook(entropy(full, 10, "mixed", "range"), np.append(np.float32(0), centers)),
        "outlined": entropy(full, 10, "outlined", "ans"),
        "outlined.range": entropy(plane, 40, "outlined", "range"),
        "blended": entropy(plane, 40, "blended", "ans"),
        "blended.range": entropy(full, 10, "blended", "range"),
        "affine": Affine(
            encode(rng.integers(-8, 8, (6, 10)).astype(np.int8)),
            rng.random(6).astype(np.float32),
            np.zeros(6, np.int32),
            0,
        ),
        "planes": Planes(tuple(weights.view(np.uint8).reshape(16, 20, 4)[..., k] for k in range(4)), "float32"),
        "hash": Hash(encode(centers), 5, (12, 9)),
        "hash.masked": Hash(centers, 77, support.shape, Bitmap(bits, support.shape)),
        "shift": Codebook(Shift(full, np.arange(24, dtype=np.int16)), rng.normal(size=40).astype(np.float32)),
        "runs": Codebook(Runs(entropy(full[:, :9], 10, "static", "ans"), 4, (24, 9, 2, 2)), rng.random(40, np.float32)),
        "groups": Reshape(
            Affine(
                Reshape(entropy(full, 10, "static", "ans"), (48, full.size // 48)),
                common.array.repeat(6)[:48].copy(),
                np.zeros(48, np.int32),
                0,
            ),
            full.shape,
        ),
        "paths": Affine(Paths(entropy(full, 10, "static", "ans")), np.float32(0.5), np.int32(0)),
        "own": Codebook(codes[:60].reshape(6, 10), common),
        "same": Sparse(Bitmap(bits, support.shape), Codebook(codes, common)),
        "packed": Packed(np.arange(15, dtype=np.uint8), 5, -3, (2, 12), "int16"),
        "bfloat16": Dense(np.arange(12, dtype=np.uint16).reshape(3, 4), "bfloat16"),
        "flags": Dense(np.array([True, False, True])),
        "empty": Dense(np.zeros((0, 5), np.float16)),
    }
    data = {
        "aliases": {"head.weight": "mixed"},
        "edits": [{"kind": "split", "site": "fc", "rank": 4, "scale": 0.5, "more": [None, True, -1]}],
        "activations": {"gaps": {"scale": 0.1, "zero": 3, "bits": 8, "signed": False}},
        "meta": {"task": "digits", "recipe": {"steps": ["prune", "share"]}},
    }
    small = {name: every[name] for name in ("mixed", "packed", "outlined.range", "blended")}
    return [
        dumps(Artifact(every, **data)),
        dumps(Artifact(every, graph=b"a graph, a graph, a graph " * 12, **data)),
        dumps(Artifact(small, graph=rng.bytes(90))),
        dumps(Artifact({"w": encode(weights)}, graph=bytes(3000) + b"".join(bytes([k % 7, 0, 1]) for k in range(900)))),
    ]


def damaged(files: list[bytes], rng: random.Random) -> bytes:
    """Return one of ``files`` with one to four random injuries."""
    data = bytearray(rng.choice(files))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(data) or 1)
        kind = rng.randrange(7)
        if kind == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[at] = rng.randrange(256)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            other = rng.choice(files)
            data[at:] = other[rng.randrange(len(other)) :]
        elif kind == 4:
            data[at:at] = rng.randbytes(rng.randrange(1, 40))
        elif kind == 5:
            del data[at : at + rng.randrange(1, 40)]
        else:
            data[at : at + rng.randrange(1, 9)] = bytes(rng.randrange(1, 9))
    return bytes(data)


def resealed(files: list[bytes], rng: random.Random) -> bytes:
    """Return a file whose payload or header was tampered with; its checksums match where checksums are all zero."""
    data = rng.choice(files)
    header, start = container.read_header(data)
    raw = msgspec.msgpack.encode(header)
    payload = bytearray(data[start:])
    if rng.random() < 0.6:
        plain = msgspec.msgpack.decode(raw)
        for _ in range(rng.choice((1, 1, 2, 3))):
            _tamper(plain, rng)
        raw = msgspec.msgpack.encode(plain)
    elif rng.random() < 0.3:
        raw = damaged([raw], rng)
    if rng.random() < 0.4:
        payload = bytearray(damaged([bytes(payload)], rng))
    stored, flags = (raw, 0) if rng.random() < 0.5 else (deflate(raw), container.DEFLATED)
    return container.PREFIX.pack(container.MAGIC, container.VERSION, flags, len(stored), 0) + stored + payload


def _tamper(value: object, rng: random.Random) -> None:
    """Change one random leaf, element or node of plain data in place."""
    while isinstance(value, list | dict) and value:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        inner = value[key]
        if isinstance(inner, list | dict) and inner and rng.random() < 0.9:
            value = inner
            continue
        numbers = (0, 1, 2, 3, 7, 255, 4096, 65535, 65536, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1, -1, -128)
        others = (None, "", "x", [], [0], [[0, 0]], {}, True, 0.5, b"x", msgspec.msgpack.Ext(5, b"y"))
        value[key] = rng.choice(numbers) if rng.random() < 0.8 else rng.choice(others)
        return


def judge(data: bytes) -> str:
    """Return how reading ``data`` ends: ``sound``, ``refused``, ``problems`` or the name of a stray exception."""
    try:
        found = problems(loads(data))
    except ArtifactError:
        return "refused"
    except BaseException as error:  # whatever else escapes is what is looked for
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {error}"
    return "problems" if found else "sound"


def campaign(kind: Kind, count: int, seed: int) -> Iterator[bytes]:
    """Yield ``count`` files of one kind; while a resealed one is looked at, every checksum matches."""
    rng = random.Random(seed)  # noqa: S311 damage is no secret
    zero = mock.patch("zlib.crc32", return_value=0)
    with zero if kind is resealed else nullcontext():
        files = seeds()
        for _ in range(count):
            yield kind(files, rng)


def measure(kind: Kind, count: int, seed: int) -> dict[str, object]:
    """Run a campaign and return its outcomes, its slowest file and, of every tenth, the largest allocation."""
    outcomes: Counter[str] = Counter()
    slowest = memory = 0.0
    for index, data in enumerate(campaign(kind, count, seed)):
        began = time.process_time()
        outcomes[judge(data)] += 1
        slowest = max(slowest, time.process_time() - began)
        if index % 10 == 0:
            tracemalloc.start()
            judge(data)
            memory = max(memory, tracemalloc.get_traced_memory()[1] / layout.bound(len(data)))
            tracemalloc.stop()
    return {
        "files": count,
        "outcomes": dict(outcomes),
        "slowest_cpu_seconds": round(slowest, 3),
        "largest_allocation_over_bound": round(memory, 3),
    }


def main() -> int:
    """Run both campaigns; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    from provenance import commit, machine  # noqa: PLC0415  tests load this file from another folder

    result: dict[str, object] = {
        "commit": commit(),
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(),
        "seed": options.seed,
    }
    missed = False
    for kind in (damaged, resealed):
        figures = measure(kind, options.count, options.seed)
        strays = set(figures["outcomes"]) - {"sound", "refused", "problems"}
        if kind is damaged:
            strays |= set(figures["outcomes"]) & {"problems"}
        over = figures["slowest_cpu_seconds"] > SECONDS or figures["largest_allocation_over_bound"] > 2
        missed = missed or bool(strays) or over
        result[kind.__name__] = figures
        print(kind.__name__, json.dumps(figures))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())

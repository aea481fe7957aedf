"""Code the same integers with Gossamer, zstd-19, xz-9, brotli-11 and NNCodec's lossless coder; every byte counted.

    pip install zstandard==0.25.0 brotli==1.2.1 pybind11 && pip install --no-deps nncodec==2.1.3
    python benchmarks/codecs.py

For every trained network of the zoo and four ways to quantize its tensors of two or more dimensions, the integers are
made once and given to all. What is counted:

- Gossamer: the whole ``.goss`` file of these tensors: names, shapes, header, checksums; beside it the payload alone;
- zstd, xz and brotli: one stream of all tensors' bytes one after the other (int8 where all of a tensor fits, else
  int16), nothing else; names and shapes are not in it. xz at preset 9 extreme, brotli with a window of 16 MB;
- NNCodec 2.1.3: the arithmetic-coded bytes of each tensor by its coder (DeepCABAC), the smallest of all its settings
  tried for each tensor (`nncodec_settings`) that its own decoder reads back, without unit headers and without the entry
  points that some scan orders need. Only its compiled extension is used, so nothing that NNCodec imports for its sample
  data sets is needed.

Everything is decoded and compared. Times are one process's, the search for the smallest form included, one run each.
"""

import argparse
import itertools
import json
import lzma
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import commit, machine

from gossamer import zoo
from gossamer.artifact import Artifact, dumps, loads
from gossamer.codings import encode, nbytes
from gossamer.methods.share.lloyd import lloyd

try:
    import brotli
    import zstandard
    from nncodec.extensions.deepCABAC import Decoder, Encoder, HdspMode
except ImportError as missing:
    raise SystemExit(f"{missing}; this benchmark needs the packages named in its docstring") from None

RESULTS = Path(__file__).resolve().parent / "results" / "codecs.json"
PRUNED, VALUES, UNIFORM_BITS = 0.85, 32, 2.0
BAR = 0.97
Tensors = dict[str, np.ndarray]


def per_channel(weights: Tensors, bits: int) -> Tensors:
    """Return symmetric codes of ``bits`` bits, one scale for each index of the first dimension."""
    most = (1 << (bits - 1)) - 1

    def codes(weight: np.ndarray) -> np.ndarray:
        peak = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True)
        return np.rint(weight / np.where(peak > 0, peak, 1) * most).astype(np.int8)

    return {name: codes(weight) for name, weight in weights.items()}


def pruned_shared(weights: Tensors) -> Tensors:
    """Return codes of the weights pruned to 15 % of each tensor by magnitude and shared to at most 32 values; 0 is 0.

    Codes count the shared values from zero up and down, so that neighbouring codes mean neighbouring values.
    """
    coded = {}
    for name, weight in weights.items():
        kept = np.abs(weight) > np.quantile(np.abs(weight), PRUNED)
        values = np.sort(weight[kept].astype(np.float64))
        centers = lloyd(values, np.linspace(values[0], values[-1], VALUES))
        nearest = np.searchsorted((centers[1:] + centers[:-1]) / 2, weight)
        below = int(np.count_nonzero(centers < 0))
        codes = nearest - below + (nearest >= below)
        coded[name] = np.where(kept, codes, 0).astype(np.int8)
    return coded


def uniform(weights: Tensors) -> Tensors:
    """Return codes on one step for the whole network, such that their entropy is 2 bits a weight on average.

    The step of each tensor is the common one times the tensor's standard deviation.
    """
    scaled = {name: weight / (weight.std() or 1.0) for name, weight in weights.items()}
    low, high = 1e-3, 8.0
    for _ in range(30):
        step = (low * high) ** 0.5
        coded = {name: np.rint(weight / step).astype(np.int16) for name, weight in scaled.items()}
        low, high = (step, high) if mean_entropy(coded) > UNIFORM_BITS else (low, step)
    return {name: narrow(codes) for name, codes in coded.items()}


def mean_entropy(tensors: Tensors) -> float:
    """Return bits a weight: of each tensor the entropy of how often its codes occur."""
    bits = total = 0.0
    for codes in tensors.values():
        _, counts = np.unique(codes, return_counts=True)
        bits -= float(counts @ np.log2(counts / codes.size))
        total += codes.size
    return bits / total


def narrow(codes: np.ndarray) -> np.ndarray:
    """Return ``codes`` in the least of int8 and int16 that holds them."""
    return codes.astype(np.int8 if codes.min() >= -128 and codes.max() <= 127 else np.int16)


WAYS: dict[str, Callable[[Tensors], Tensors]] = {
    "int8 per channel": lambda weights: per_channel(weights, 8),
    "int4 per channel": lambda weights: per_channel(weights, 4),
    "pruned 85 %, 32 values": pruned_shared,
    "uniform, 2 bits": uniform,
}


def ours(tensors: Tensors) -> dict[str, float]:
    """Return file and payload bytes and seconds of Gossamer."""
    began = time.process_time()
    artifact = Artifact({name: encode(codes) for name, codes in tensors.items()})
    data = dumps(artifact)
    coded = time.process_time()
    back = loads(data)
    for name, codes in tensors.items():
        _same(back.array(name), codes)
    seconds = {"encode_seconds": coded - began, "decode_seconds": time.process_time() - coded}
    return {"bytes": len(data), "payload_bytes": sum(map(nbytes, artifact.tensors.values())), **seconds}


Pack = Callable[[bytes], bytes]
GENERAL: dict[str, tuple[Pack, Pack]] = {
    "zstd-19": (
        lambda raw: zstandard.ZstdCompressor(level=19, write_content_size=False).compress(raw),
        lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    ),
    "xz-9": (
        lambda raw: lzma.compress(raw, check=lzma.CHECK_NONE, preset=9 | lzma.PRESET_EXTREME),
        lzma.decompress,
    ),
    "brotli-11": (lambda raw: brotli.compress(raw, quality=11, lgwin=24), brotli.decompress),
}


def general(tensors: Tensors, pack: Pack, unpack: Pack) -> dict[str, float]:
    """Return bytes and seconds of a general compressor."""
    raw = b"".join(codes.tobytes() for codes in tensors.values())
    began = time.process_time()
    data = pack(raw)
    coded = time.process_time()
    if unpack(data) != raw:
        raise SystemExit("a compressor did not give back what it was given")
    return {"bytes": len(data), "encode_seconds": coded - began, "decode_seconds": time.process_time() - coded}


def nncodec_settings() -> Iterator[tuple[int, int, int, int]]:
    """Yield what is tried: fit of the context models, rows of zeros skipped, known range, scan order."""
    yield from itertools.product((0, 1), (0, 1), (0, 1), range(5))


def nncodec(tensors: Tensors) -> dict[str, float]:
    """Return bytes and seconds of NNCodec's coder at its best setting for each tensor."""
    total, encoding, decoding = 0, 0.0, 0.0
    for codes in tensors.values():
        began = time.process_time()
        tried = [(_cabac(codes, *setting), setting) for setting in nncodec_settings()]
        coded = time.process_time()
        sized = sorted(tried, key=lambda item: len(item[0]))
        total += next(len(data) for data, (_, _, *rest) in sized if np.array_equal(_uncabac(data, codes, *rest), codes))
        encoding, decoding = encoding + coded - began, decoding + time.process_time() - coded
    return {"bytes": total, "encode_seconds": encoding, "decode_seconds": decoding}


UNARY = 10  # NNCodec's own number of greater-than flags
OFF = (HdspMode.AlwaysOff, np.zeros(2, np.int8))


def _cabac(codes: np.ndarray, fit: int, skip: int, ranged: int, scan: int) -> np.ndarray:
    """Return the coded bytes of ``codes``."""
    wide = np.ascontiguousarray(codes, np.int32)
    coder = Encoder()
    coder.initCtxModels(UNARY + 1, fit)
    if fit:  # its context models are fitted while it quantizes; with step 1 (parameter 0) nothing is rounded
        exact = np.zeros(wide.shape, np.int32)
        coder.quantLayer(wide.astype(np.float32), exact, 0, 2, 0, 0.0, UNARY, scan, 1)
        _same(exact, wide)
    zero = np.array([not row.any() for row in wide], np.int32)
    coder.encodeLayer(wide, 0, scan, 1, 0, skip, zero, *OFF, *_range(wide, ranged))
    return coder.finish()


def _uncabac(data: np.ndarray, codes: np.ndarray, ranged: int, scan: int) -> np.ndarray:
    back = np.zeros(codes.shape, np.int32)
    coder = Decoder()
    coder.setStream(data)
    coder.initCtxModels(UNARY + 1)
    coder.decodeLayerAndCreateEPs(back, 0, scan, 1, 0, *OFF, *_range(codes, ranged))
    return back.astype(codes.dtype)


def _range(codes: np.ndarray, ranged: int) -> tuple[int, int]:
    low, high = min(int(codes.min()), 0), max(int(codes.max()), 0)
    return (high - low + 1, -low) if ranged else (0, 0)


def _same(back: np.ndarray, codes: np.ndarray) -> None:
    if not np.array_equal(back, codes):
        raise SystemExit("a coder did not give back what it was given")


def one(network: str, way: str) -> dict[str, Any]:
    """Return what is recorded of one network quantized in one way."""
    state = zoo.build(network, pretrained=True).state_dict()
    weights = {name: tensor.numpy() for name, tensor in state.items() if tensor.ndim >= 2}
    tensors = WAYS[way](weights)
    found = {"gossamer": ours(tensors)}
    found |= {name: general(tensors, *pair) for name, pair in GENERAL.items()}
    found["nncodec"] = nncodec(tensors)
    peer = min((name for name in found if name != "gossamer"), key=lambda name: found[name]["bytes"])
    elements = sum(codes.size for codes in tensors.values())
    return {
        "network": network,
        "way": way,
        "elements": elements,
        "entropy_bytes": round(mean_entropy(tensors) * elements / 8),
        **found,
        "best_peer": peer,
        "ratio": found["gossamer"]["bytes"] / found[peer]["bytes"],
        "payload_ratio": found["gossamer"]["payload_bytes"] / found[peer]["bytes"],
    }


def main() -> None:
    """Code the networks named on the command line, or all that come trained, and write the results."""
    names = [name for name in zoo.names() if zoo.trained(name)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[[], *names], default=[])
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for network, way in itertools.product(given.networks or names, WAYS):
        row = one(network, way)
        rows.append(row)
        sizes = ", ".join(f"{name} {row[name]['bytes']:,}" for name in ("gossamer", *GENERAL, "nncodec"))
        print(f"{network}, {way}: {sizes}: {row['ratio']:.4f} (payload {row['payload_ratio']:.4f})", flush=True)
    ratios = np.array([row["ratio"] for row in rows])
    results = {
        "note": "Bytes of the same integers; `ratio` is Gossamer's whole file over the smallest of the others.",
        "command": " ".join(["python", *sys.argv]),
        "commit": commit(),
        "machine": machine(),
        "load_average": os.getloadavg(),
        "peers": {name: version(name) for name in ("zstandard", "brotli", "nncodec")},
        "bar": BAR,
        "geometric_mean_ratio": float(np.exp(np.log(ratios).mean())),
        "worst_ratio": float(ratios.max()),
        "within_bar": f"{int((ratios <= BAR).sum())} of {ratios.size}",
        "tensors": rows,
    }
    given.output.write_text(json.dumps(results, indent=1) + "\n")
    print(f"geometric mean {results['geometric_mean_ratio']:.4f}, worst {results['worst_ratio']:.4f}")


if __name__ == "__main__":
    main()

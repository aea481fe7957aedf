"""Tables made from the committed results under ``benchmarks/results``; nothing on that page is typed by hand."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
ABOUT = {"command", "commit", "machine", "title", "note", "seeds", "threads", "recipe_sha256"}
"""Keys that say where figures come from."""
OWN = (
    "deep_compression_*.json",
    "retraining_*.json",
    "reference.json",
    "int8.json",
    "latency.json",
    "speed_int8.json",
    "speed_peers.json",
    "torch_pruning.json",
    "rate_distortion.json",
    "quantization.json",
    "codecs.json",
)
"""Results that have a table of their own."""
OUTCOME = ("metric", "test before", "test after", "change", "seeds")
"""Columns about what a recipe did to a network, over several seeds."""
NONE = "No results are committed yet."


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def compressed() -> str:
    """Return one row per network that a built-in recipe compressed, means over the seeds."""
    rows = [_compressed_row(result) for result in _read("deep_compression_*.json")]
    return table(("network", "recipe", "dense fp32", "file", "ratio", *OUTCOME), rows) if rows else NONE


def everything() -> str:
    """Return the whole page: results that have a table of their own, then every other one."""
    parts = ["## Deep compression of the reference networks", compressed(), *_origins("deep_compression_*.json")]
    parts += ["## Pruning with retraining", _retrained(), *_origins("retraining_*.json")]
    parts += ["## The reference networks", _reference()]
    parts += ["## 8-bit integers on ONNX Runtime", _int8()]
    parts += ["## 8-bit accuracy beside other tools", *_quantization()]
    parts += ["## Latency of networks cut to half", *_latency()]
    parts += ["## Speed of 8-bit networks", *_speed()]
    parts += ["## 8-bit speed beside other tools", *_speed_beside()]
    parts += ["## Cutting beside Torch-Pruning", *_torch_pruning()]
    parts += ["## Quantization without training, beside NNCodec", *_rate_distortion()]
    parts += ["## The coder alone, beside other compressors", *_codecs()]
    known = {path for pattern in OWN for path in RESULTS.glob(pattern)}
    for path in sorted(set(RESULTS.glob("*.json")) - known):
        parts += [f"## {path.stem.replace('_', ' ').capitalize()}", *_other(json.loads(path.read_text()))]
    return "\n\n".join(part for part in parts if part)


def _result(name: str) -> dict[str, Any]:
    """Return what a file holds, or nothing if it is not committed yet."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _read(pattern: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(pattern))]


def _compressed_row(result: Mapping[str, Any]) -> tuple[str, ...]:
    mean = result["mean"]
    sizes = (f"{result['dense_bytes'] / 1000:,.1f} kB", f"{mean['file_bytes'] / 1000:,.1f} kB")
    return (result["network"], result["recipe"], *sizes, f"{mean['ratio']:.1f}", *_outcome(result))


def _retrained() -> str:
    """Return one row per recipe that prunes and retrains, means over the seeds."""
    rows = []
    for result in _read("retraining_*.json"):
        mean = result["mean"]
        shares = (f"{100 * mean['zeros']:.1f} %", f"{100 * (mean['macs_left'] or 1):.1f} %", f"{mean['ratio']:.1f}")
        run = mean.get("test_on_runtime")
        there = _figure(result["metric"], run) if run is not None else ""
        rows.append((result["recipe"], *shares, *_outcome(result), there))
    head = ("recipe", "zeros", "MACs left", "ratio of the file", *OUTCOME, "on ONNX Runtime")
    return table(head, rows) if rows else NONE


def _outcome(result: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells under `OUTCOME`."""
    figures = (_figure(result["metric"], result["mean"][f"test_{when}"]) for when in ("before", "after", "change"))
    return (result["metric"], *figures, str(len(result["seeds"])))


def _figure(metric: str, value: float) -> str:
    return f"{100 * value:.2f} %" if metric == "accuracy" else f"{value:.4f}"


def _origins(pattern: str) -> Iterator[str]:
    for result in _read(pattern):
        commits = sorted({row["commit"] for row in result["seeds"]})
        yield f"`{result['command']}` at {', '.join(commits)}; {_machine(result['machine'])}."


def _reference() -> str:
    entries = _result("reference")
    if not entries:
        return NONE
    rows = []
    for name, one in entries.items():
        test = ", ".join(f"{key} {_figure(key, value)}" for key, value in one["test"].items() if key != "loss")
        rows.append(
            (
                name,
                one["data"],
                str(one["epochs"]),
                test,
                f"{one['seconds']:.0f} s",
                f"`{one['command']}`",
                one["commit"],
            )
        )
    machines = sorted({_machine(one["machine"]) for one in entries.values()})
    head = ("network", "data", "epochs", "test split", "time", "command", "commit")
    return table(head, rows) + "\n\nOn " + "; ".join(machines) + "."


def _int8() -> str:
    entries = _result("int8")
    if not entries:
        return NONE
    rows = []
    for name, one in entries.items():
        sizes = [f"{one['onnx_bytes'][kind] / 1000:,.1f} kB" for kind in ("fp32", "int8")]
        tests = [_figure(one["metric"], one["test"][f"onnx_{kind}"][one["metric"]]) for kind in ("fp32", "int8")]
        times = [
            f"{1e6 * one['target'][kind]['run']['latency']['median']['value']:.1f} µs" for kind in ("fp32", "int8")
        ]
        rows.append((name, *sizes, *tests, *times, f"`{one['command']}`", one["commit"]))
    head = ("network", "ONNX fp32", "int8", "test fp32", "int8", "latency fp32", "int8", "command", "commit")
    machines = sorted({_machine(one["machine"]) for one in entries.values()})
    return table(head, rows) + "\n\nOne sample a run, median. On " + "; ".join(machines) + "."


PEERS = {"gossamer": "Gossamer", "onnxruntime": "ONNX Runtime", "nncf": "NNCF", "torchao": "torchao PT2E"}


def _quantization() -> Iterator[str]:
    result = _result("quantization")
    if not result:
        yield NONE
        return
    yield (
        f"No training, {result['samples']} samples without labels, the same for all, every tool with its defaults: by "
        "how much the test split gets worse, in points of accuracy or in bits a character; negative is better. Means "
        "over the seeds that pick the samples."
    )
    yield _origin({**result, **result["rows"][-1]})
    rows = []
    for network, worse in result["worse"].items():
        mine = [row for row in result["rows"] if row["network"] == network]
        factor = 100 if mine[0]["metric"] == "accuracy" else 1
        figures = ["refuses" if worse[peer] is None else f"{factor * worse[peer]:+.4f}" for peer in PEERS]
        rows.append((network, mine[0]["metric"], *figures, str(len(mine))))
    yield table(("network", "metric", *PEERS.values(), "seeds"), rows)


def _latency() -> Iterator[str]:
    result = _result("latency")
    if not result:
        yield NONE
        return
    yield (
        "fp32, one sample a run, one process per graph, taking turns. `ratio` is the median over repeats with new "
        "processes, each a ratio of medians; beside it the least and the most of them. `apart` is the range between "
        "the quartiles of the cut network's runs over their median, `load` the load average of the machine."
    )
    yield _origin(result)
    head = ("network", "operations left", "whole", "cut", "ratio", "least to most", "wanted", "apart", "load", "commit")
    rows = [
        (
            one["network"],
            f"{100 * one['macs_left']:.1f} %",
            f"{one['whole_ms']:.2f} ms",
            f"{one['cut_ms']:.2f} ms",
            f"{one['ratio']:.2f}",
            f"{one['ratio_least']:.2f} to {one['ratio_most']:.2f}",
            f"{one['bar']}",
            f"{100 * one['cut_quartiles_apart']:.0f} %",
            f"{one['load']:.1f}",
            one["commit"],
        )
        for one in result["networks"]
    ]
    yield table(head, rows)


def _speed_beside() -> Iterator[str]:
    result = _result("speed_peers")
    if not result:
        yield NONE
        return
    yield (
        "How many times as fast as the float network each runs, one sample a run, with default settings: Gossamer, "
        "ONNX Runtime's own tools and NNCF on ONNX Runtime, torchao compiled by torch.compile beside the float network "
        "compiled likewise; in brackets milliseconds. ONNX Runtime's tools are shown with a scale per channel and "
        "unsigned inputs too, not their defaults. `writes` is what `gossamer export` chooses by default."
    )
    peers = {**PEERS, "onnxruntime_best": "ONNX Runtime, per channel, unsigned"}
    yield _origin({**result, **result["rows"][-1]})

    def cell(row: Mapping[str, Any], peer: str) -> str:
        if peer not in row:
            return "-"
        return f"{row[peer]['ratio']:.2f} ({row[peer]['ms']:.3f})" if "ratio" in row[peer] else "refused"

    head = ("network", "fp32 on ONNX Runtime", "fp32 on torch", *peers.values(), "writes")
    rows = [
        (
            row["network"],
            f"{row['float']['ms']:.3f} ms",
            f"{row['torch']['ms']:.3f} ms",
            *(cell(row, peer) for peer in peers),
            row["default"],
        )
        for row in result["rows"]
    ]
    yield table(head, rows)


def _speed() -> Iterator[str]:
    result = _result("speed_int8")
    if not result:
        yield NONE
        return
    yield (
        "fp32, `quantize.post_training` with default settings, and the runtime's own quantizer (`quantize_static` per "
        "channel, `quantize_dynamic` for LSTM and GRU) on initial weights: one sample a run, one process per graph, "
        "taking turns. `ratio` is the median over repeats with new processes, each a ratio of medians to fp32; beside "
        "it the least and the most of them. LSTM and GRU are two layers of 650 units over 32 steps, `fc` is the first "
        "fully connected layer of the VGG-16. `writes` is what `gossamer export` chooses by default."
    )
    yield _origin(result)
    head = (
        "network",
        "fp32",
        "ours",
        "ratio",
        "least to most",
        "wanted",
        "its own",
        "file",
        "operators",
        "writes",
        "load",
        "commit",
    )
    rows = [
        (
            one["network"],
            f"{one['fp32_ms']:.2f} ms",
            f"{one['ours_ms']:.2f} ms",
            f"{one['ratio']:.2f}",
            f"{one['ratio_least']:.2f} to {one['ratio_most']:.2f}",
            f"{one['bar']}",
            "none" if one["peer_ratio"] is None else f"{one['peer_ratio']:.2f}",
            f"{one['onnx_ratio']:.3f}",
            ", ".join(one["operators"]),
            one.get("writes", ""),
            f"{one['load']:.1f}",
            one["commit"],
        )
        for one in result["networks"]
    ]
    yield table(head, rows)


TOOLS = {"ours": "Gossamer", "theirs": "Torch-Pruning"}


def _torch_pruning() -> Iterator[str]:
    result = _result("torch_pruning")
    if not result:
        yield NONE
        return
    yield (
        f"Half of the operations asked for, Torch-Pruning {result['torch_pruning']} called as its README shows. "
        "`left` is the share of multiply-accumulates by the same counter for both. `groups right` is how many groups "
        "leave all outputs as they are when units that nothing reads are cut, of those no normalisation mixes."
    )
    for tool, name in TOOLS.items():
        yield f"{name}: {', '.join(sorted({one[tool]['with'] for one in result['networks'] if 'with' in one[tool]}))}."
    yield _origin(result)
    rows = [_verdict(one["network"], tool, one[tool]) for one in result["networks"] for tool in TOOLS]
    yield table(("network", "tool", "left", "runs", "trains", "ONNX", "groups right"), rows)
    yield (
        "Time and peak memory of analysis and cut, medians of fresh processes in turns; the search for the share of "
        "channels that Torch-Pruning is to be given is left out. `CPU` is the processor's time over all threads, which "
        "other work disturbs less than wall time, `warm` of a second cut in the same process; memory is the peak of "
        "the process over the bytes of the network, what it takes to build it included."
    )
    head = tuple(f"{name} {what}" for what in ("time", "CPU", "warm CPU", "memory") for name in TOOLS.values())
    figures = (("seconds", " s"), ("cpu_seconds", " s"), ("warm_cpu_seconds", " s"), ("memory_ratio", " ×"))
    yield table(
        ("network", *head, "load", "commit"),
        [
            (
                one["network"],
                *(_median(one[tool].get(figure), unit) for figure, unit in figures for tool in TOOLS),
                f"{one['load']:.1f}",
                one["commit"],
            )
            for one in result["networks"]
        ],
    )


def _rate_distortion() -> Iterator[str]:
    result = _result("rate_distortion")
    if not result:
        yield NONE
        return
    yield (
        f"Bytes of whole weights files, no weight trained, the fewest at which the validation split loses no more than "
        f"is allowed (points of accuracy, or bits a character); test is read once. Means over the seeds that pick the "
        f"calibration inputs. Geometric mean "
        f"{result['geometric_mean']:.3f} of NNCodec {result['peers']['nncodec']}, at most {result['most']:.3f}."
    )
    yield _origin(result)
    rows = [_sizes(one) for one in result["networks"]]
    head = ("network", "allowed", "Gossamer", "test drop", "NNCodec", "test drop", "int8 + zstd-19", "of NNCodec")
    yield table((*head, "of int8", "seeds", "commit"), rows)


def _sizes(one: Mapping[str, Any]) -> tuple[str, ...]:
    bits = one["network"].startswith("char")

    def lost(drop: float) -> str:
        return f"{drop:.3f} bits" if bits else f"{100 * drop:.2f} pp"

    figures = [
        text
        for codec in ("gossamer", "nncodec")
        for text in (f"{one[codec]['bytes'] / 1000:,.1f} kB", lost(one[codec]["test_drop"]))
    ]
    int8 = f"{one['int8_zstd19']['bytes'] / 1000:,.1f} kB"
    ratios = (f"{one['of_nncodec']:.3f}", f"{one['of_int8']:.3f}")
    seeds = str(len(one["gossamer"].get("runs", [0])))
    return (one["network"], lost(one["allowed_drop"]), *figures, int8, *ratios, seeds, _short(one["commit"]))


CODECS = ("gossamer", "zstd-19", "xz-9", "brotli-11", "nncodec")


def _codecs() -> Iterator[str]:
    result = _result("codecs")
    if not result:
        yield NONE
        return
    yield (
        f"{result['note']} Geometric mean {result['geometric_mean_ratio']:.3f}, worst {result['worst_ratio']:.3f}, "
        f"{result['within_bar']} at most {result['bar']}."
    )
    yield _origin(result)
    rows = [
        (one["network"], one["way"], *(f"{one[codec]['bytes']:,}" for codec in CODECS), f"{one['ratio']:.3f}")
        for one in result["tensors"]
    ]
    yield table(("network", "integers", *CODECS, "ratio"), rows)


def _verdict(network: str, tool: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a row: what is left and what works, or the error."""
    left = f"{100 * found['macs_left']:.1f} %" if found.get("macs_left") else "-"
    cut = {"yes": left, "nothing": "100 %: nothing is cut"}.get(found["cut"], found["cut"])
    proof = found.get("proof", "-")
    if isinstance(proof, Mapping):
        whole = proof["groups"] - proof["mixed"]
        proof = f"{proof['right']} of {whole}" if whole else "none to check"
    return (network, TOOLS[tool], cut, *(found.get(what, "-") for what in ("runs", "trains", "exports")), proof)


def _median(figure: Mapping[str, float] | None, unit: str) -> str:
    return "-" if figure is None else f"{figure['median']:.3g}{unit}"


def _origin(result: Mapping[str, Any]) -> str:
    commit = f"; commit {_short(result['commit'])}" if "commit" in result else ""
    return f"`{result['command']}`; {_machine(result['machine'])}{commit}."


def _other(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield a result of any form: its note, where it comes from, every figure in it by name, lists as tables."""
    yield str(result.get("note", ""))
    machine = result.get("machine")
    origin = [f"`{result['command']}`"] if "command" in result else []
    origin += [f"commit {_short(result['commit'])}"] if "commit" in result else []
    origin += [_machine(machine) if isinstance(machine, Mapping) else machine] if machine else []
    yield "; ".join(origin) + "." if origin else ""
    plain = {key: value for key, value in result.items() if key not in ABOUT}
    listed = {key: value for key, value in plain.items() if isinstance(value, list) and _uniform(value)}
    single = list(_flat({key: value for key, value in plain.items() if key not in listed}))
    yield table(("figure", "value"), single) if single else ""
    for key, entries in listed.items():
        rows = [tuple(text for _, text in _flat(entry)) for entry in entries]
        yield f"### {key.replace('_', ' ').capitalize()}"
        yield table(tuple(name for name, _ in _flat(entries[0])), rows)


def _uniform(entries: list[Any]) -> bool:
    """Whether a list is a table: more than one entry, all with the same figures."""
    if len(entries) < 2 or not all(isinstance(entry, Mapping) for entry in entries):
        return False
    return len({tuple(name for name, _ in _flat(entry)) for entry in entries}) == 1


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key not in ABOUT or not name:
                yield from _flat(item, f"{name} {key}".strip().replace("_", " "))
    elif isinstance(value, list):
        for number, item in enumerate(value, 1):
            yield from _flat(item, f"{name} {number}")
    else:
        yield name, f"{value:,.6g}" if isinstance(value, float) else str(value)


def _short(commit: str) -> str:
    """Return a commit in twelve letters; that files had changed stays."""
    name, plus, changes = commit.partition("+")
    return name[:12] + plus + changes


def _machine(machine: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in machine.items() if key != "system")

"""Any state dict goes through a file and comes back: bit for bit, or as near as was asked, in little memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from rich.progress import Progress
from safetensors.torch import load_file, save_file, save_model
from torch import nn

import gossamer
from gossamer.artifact import load as read_artifact
from gossamer.artifact import verify
from gossamer.codings import DTYPES, Sparse, encode
from gossamer.errors import ArtifactError, PatternError, SettingError, StateError


def tensor(dtype: str, *shape: int) -> torch.Tensor:
    kind = getattr(torch, dtype)
    if kind.is_floating_point:
        return torch.randn(*shape).to(kind)
    return torch.randint(0, 2 if dtype == "bool" else 100, shape).to(kind)


def state() -> dict[str, torch.Tensor]:
    """Every dtype, as matrix and as vector; a scalar, an empty tensor, values that are not finite, minus zero."""
    made = {f"{dtype}.weight": tensor(dtype, 40, 30) for dtype in DTYPES}
    made |= {f"{dtype}.bias": tensor(dtype, 40) for dtype in DTYPES}
    made |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4), "mask": torch.full((40, 40), float("-inf"))}
    return made | {"odd": torch.tensor([0.0, -0.0, float("nan"), 1e-42])}


def large() -> dict[str, torch.Tensor]:
    """Matrices of different sizes and scales, a small one, vectors."""
    torch.manual_seed(0)
    sizes = {"first": (16, 27), "second": (64, 144), "third": (300, 300), "half": (128, 64)}
    made = {f"{name}.weight": torch.randn(shape) * 0.1 * len(name) for name, shape in sizes.items()}
    made["half.weight"] = made["half.weight"].half()
    return made | {f"{name}.bias": torch.randn(shape[0]) for name, shape in sizes.items()}


def bits(value: torch.Tensor) -> bytes:
    return value.contiguous().flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b""


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert (value.dtype, value.shape, bits(value)) == (right[name].dtype, right[name].shape, bits(right[name])), (
            name
        )


@pytest.mark.parametrize("metadata", [None, {"format": "pt", "made by": 'a "test" µ\n'}])
def test_a_file_comes_back_byte_for_byte(tmp_path, metadata):
    save_file(state(), tmp_path / "w.safetensors", metadata=metadata and {"format": "pt"})
    if metadata:  # one that the library would write in any order
        save_file(state(), tmp_path / "w.safetensors", metadata={"made by": metadata["made by"]})
    packed = gossamer.pack(tmp_path / "w.safetensors", tmp_path / "w.goss")
    assert packed.bytes == (tmp_path / "w.goss").stat().st_size
    assert packed.bytes == packed.header_bytes + sum(one.bytes for one in packed.tensors)
    assert packed.dense_bytes == sum(value.nbytes for value in state().values())
    assert (packed.step, packed.trials) == (None, 1)
    assert verify(tmp_path / "w.goss") == []
    unpacked = gossamer.unpack(tmp_path / "w.goss", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "w.safetensors").read_bytes()
    assert (unpacked.bytes, unpacked.tensors) == ((tmp_path / "w.safetensors").stat().st_size, len(state()))


@pytest.mark.parametrize("form", ["safetensors", "pt", "torch", "numpy"])
def test_every_form_of_a_state_dict(tmp_path, form):
    made = state() if form != "numpy" else {"w": torch.randn(30, 40), "n": torch.arange(9)}
    path = tmp_path / f"w.{form}"
    match form:
        case "safetensors":
            save_file(made, path)
        case "pt":
            torch.save({"state_dict": made}, path)
    source = path if path.exists() else made if form == "torch" else {key: value.numpy() for key, value in made.items()}
    gossamer.pack(source, tmp_path / "w.goss")
    gossamer.unpack(tmp_path / "w.goss", tmp_path / "back.safetensors")
    assert_same(load_file(tmp_path / "back.safetensors"), made)


class Tied(nn.Module):
    def __init__(self, *, tie: bool = True) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(20, 20), nn.Linear(20, 20)
        if tie:
            self.outer.weight = self.inner.weight


def test_ties_of_torch_are_one_tensor(tmp_path):
    model = Tied()
    packed = gossamer.pack(model.state_dict(), tmp_path / "w.goss")
    assert packed.aliases == {"outer.weight": "inner.weight"}
    filled = gossamer.load(tmp_path / "w.goss").into(Tied())
    assert filled.outer.weight is filled.inner.weight
    gossamer.unpack(tmp_path / "w.goss", tmp_path / "w.safetensors")
    assert_same(load_file(tmp_path / "w.safetensors"), dict(model.state_dict()))


def test_ties_that_safetensors_tells_of_are_kept_as_it_tells_them(tmp_path):
    save_model(Tied(), str(tmp_path / "w.safetensors"))
    packed = gossamer.pack(tmp_path / "w.safetensors", tmp_path / "w.goss")
    assert len(packed.aliases) == 1
    gossamer.load(tmp_path / "w.goss").into(Tied())
    gossamer.unpack(tmp_path / "w.goss", tmp_path / "back.safetensors")
    assert (tmp_path / "back.safetensors").read_bytes() == (tmp_path / "w.safetensors").read_bytes()


def test_equal_tensors_are_stored_once_and_stay_two(tmp_path):
    model = Tied(tie=False)
    model.outer.weight.data.copy_(model.inner.weight)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    packed = gossamer.pack(tmp_path / "w.safetensors", tmp_path / "w.goss")
    assert packed.aliases == {"outer.weight": "inner.weight"}
    assert packed.bytes < 2 * model.inner.weight.nbytes
    filled = gossamer.load(tmp_path / "w.goss").into(Tied(tie=False))
    assert filled.outer.weight is not filled.inner.weight
    assert_same(filled.state_dict(), model.state_dict())
    tied = gossamer.load(tmp_path / "w.goss").into(Tied())
    assert tied.outer.weight is tied.inner.weight
    gossamer.unpack(tmp_path / "w.goss", tmp_path / "back.safetensors")
    assert (tmp_path / "back.safetensors").read_bytes() == (tmp_path / "w.safetensors").read_bytes()


@pytest.mark.parametrize("step", [pytest.param(0.01, marks=pytest.mark.slow), 0.3, 2.0])
def test_no_element_moves_by_more_than_half_a_step(tmp_path, step):
    made = state() | large()
    packed = gossamer.pack(made, tmp_path / "w.goss", step=step)
    gossamer.unpack(tmp_path / "w.goss", tmp_path / "w.safetensors")
    back = load_file(tmp_path / "w.safetensors")
    assert back.keys() == made.keys()
    seen = set()
    for one in packed.tensors:
        was, now = made[one.name], back[one.name]
        assert (was.dtype, was.shape) == (now.dtype, now.shape)
        if one.step is None and one.significant_bits is None:
            assert bits(was) == bits(now), one.name
            continue
        seen.add(one.dtype)
        x, y = was.double(), now.double()
        half = (step * x.std(correction=0) if one.step is None else torch.tensor(one.step).double()) / 2
        assert one.step is None or one.step == pytest.approx(2 * float(half), rel=1e-6)
        rounding = torch.finfo(was.dtype).eps * x.abs() / 2
        assert bool(((x - y).abs() <= half * (1 + 1e-6) + rounding).all()), one.name
        if one.significant_bits is not None:
            assert one.significant_bits >= 11
            assert bool(((x - y).abs() <= 2.0**-one.significant_bits * x.abs()).all()), one.name
    assert {"float32", "float64", "float16"} <= seen
    assert step < 0.1 or "bfloat16" in seen


def test_zeros_stay_zeros_and_the_step_is_of_each_tensor(tmp_path):
    made = {"a": torch.randn(40, 40), "b": 100 * torch.randn(40, 40)}
    made["a"][torch.rand(40, 40) < 0.5] = 0
    first, second = gossamer.pack(made, tmp_path / "w.goss", step=0.5).tensors
    assert first.step == pytest.approx(0.5 * float(made["a"].double().std(correction=0)))
    assert second.step == pytest.approx(0.5 * float(made["b"].double().std(correction=0)))
    assert not read_artifact(tmp_path / "w.goss").array("a")[made["a"].numpy() == 0].any()


def test_what_is_to_be_exact_is(tmp_path):
    made = large()
    packed = gossamer.pack(made, tmp_path / "w.goss", step=1.0, exact=["third.*", "*.bias"])
    kept = {one.name for one in packed.tensors if one.step is None and one.significant_bits is None}
    assert kept == {"third.weight", *(name for name in made if name.endswith(".bias"))}
    with pytest.raises(PatternError, match=r"pattern 'fourth\.\*' matches no tensor"):
        gossamer.pack(made, tmp_path / "w.goss", exact=["fourth.*"])


@pytest.mark.parametrize(
    "size", [30_000, *(pytest.param(size, marks=pytest.mark.slow) for size in (12_000, 100_000)), 200_000]
)
def test_a_size_is_met_and_used(tmp_path, size):
    packed = gossamer.pack(large(), tmp_path / "w.goss", size=size)
    assert 0.98 * size <= packed.bytes == (tmp_path / "w.goss").stat().st_size <= size
    assert packed.step is not None
    steps = {one.name: one.step for one in packed.tensors if one.step is not None}
    std = {name: float(value.double().std(correction=0)) for name, value in large().items()}
    for (
        name,
        got,
    ) in steps.items():  # one slope: it grows with the deviation and the size^(1/4)
        even = packed.step * (large()[name].numel() / 65536) ** 0.25
        assert got / std[name] == pytest.approx(even, rel=0.05)
    assert list(tmp_path.iterdir()) == [tmp_path / "w.goss"]


def test_a_size_that_asks_for_nothing_loses_nothing(tmp_path):
    least = gossamer.pack(large(), tmp_path / "w.goss")
    packed = gossamer.pack(large(), tmp_path / "v.goss", size=least.bytes)
    assert (packed.step, packed.trials) == (None, 1)
    assert (tmp_path / "v.goss").read_bytes() == (tmp_path / "w.goss").read_bytes()


@pytest.mark.slow
def test_a_size_that_cannot_be_met_is_refused_and_nothing_is_left(tmp_path):
    (tmp_path / "w.goss").write_bytes(b"old")
    with pytest.raises(
        SettingError, match=r"size is 900 bytes, but even on the coarsest .* \(hint: give at least"
    ) as said:
        gossamer.pack(large(), tmp_path / "w.goss", size=900)
    least = int(str(said.value).rpartition("give at least ")[2].partition(";")[0])
    with pytest.raises(SettingError, match="nothing here may lose precision"):
        gossamer.pack({"n": torch.randint(0, 99, (30, 30))}, tmp_path / "w.goss", size=100)
    assert (tmp_path / "w.goss").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "w.goss"]
    assert gossamer.pack(large(), tmp_path / "w.goss", size=least).bytes <= least


@pytest.mark.parametrize("settings", [{"step": 0.0}, {"step": 99.0}, {"size": 0}, {"step": 1.0, "size": 9}])
def test_settings_out_of_range(tmp_path, settings):
    with pytest.raises(SettingError):
        gossamer.pack(large(), tmp_path / "w.goss", **settings)


def test_what_compress_writes_is_unpacked_too(tmp_path):
    where = np.arange(600).reshape(20, 30) % 7 == 0
    node = encode(Sparse(where, np.arange(int(where.sum()), dtype=np.float32)))
    gossamer.artifact.save(tmp_path / "m.goss", gossamer.Artifact({"w": node, "where": encode(where)}, {"tied": "w"}))
    gossamer.unpack(tmp_path / "m.goss", tmp_path / "m.safetensors")
    back = load_file(tmp_path / "m.safetensors")
    assert list(back) == ["w", "where", "tied"] or set(back) == {"w", "where", "tied"}
    assert torch.equal(back["w"], back["tied"])
    assert np.array_equal(back["where"].numpy(), where)


def test_damage_is_told_and_leaves_nothing(tmp_path):
    gossamer.pack(large(), tmp_path / "w.goss")
    data = (tmp_path / "w.goss").read_bytes()
    for damaged in (data[:-1], data[:9], data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]):
        (tmp_path / "w.goss").write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"w\.goss, "):
            gossamer.unpack(tmp_path / "w.goss", tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == [tmp_path / "w.goss"]


def test_states_that_cannot_be_packed(tmp_path):
    with pytest.raises(StateError, match="tensor z has dtype complex64"):
        gossamer.pack({"z": torch.zeros(3, dtype=torch.complex64)}, tmp_path / "w.goss")
    with pytest.raises(StateError, match="tensor z: Dense: dtype object"):
        gossamer.pack({"z": np.array([None])}, tmp_path / "w.goss")
    with pytest.raises(StateError, match=r"w\.bin: wanted a file ending in \.safetensors"):
        gossamer.pack(tmp_path / "w.bin", tmp_path / "w.goss")
    with pytest.raises(StateError, match=r"w\.pt: cannot be read: No such file"):
        gossamer.pack(tmp_path / "w.pt", tmp_path / "w.goss")
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    for content in ((tmp_path / "w.pt").read_bytes(), b"", b"hi\n", b"\x80", (tmp_path / "w.pt").read_bytes()[:200]):
        (tmp_path / "w.pt").write_bytes(content)
        with pytest.raises(StateError, match="damaged, or cannot be read without running code"):
            gossamer.pack(tmp_path / "w.pt", tmp_path / "w.goss")


def test_names_that_cannot_be_stored(tmp_path):
    with pytest.raises(StateError, match="the name of a tensor is a text, got 3"):
        gossamer.pack({3: torch.zeros(3)}, tmp_path / "w.goss")
    with pytest.raises(StateError, match="cannot be stored: 'utf-8' codec"):
        gossamer.pack({"\ud800": torch.zeros(3)}, tmp_path / "w.goss")
    gossamer.pack({"__metadata__": torch.zeros(3)}, tmp_path / "w.goss")
    with pytest.raises(StateError, match="no tensor of a safetensors file can be named __metadata__"):
        gossamer.unpack(tmp_path / "w.goss", tmp_path / "w.safetensors")


@pytest.mark.parametrize("tensor", [torch.eye(3).to_sparse(), torch.empty(3, device="meta")])
def test_tensors_without_memory_of_their_own(tmp_path, tensor):
    with pytest.raises(StateError, match="tensor w is sparse or has no values"):
        gossamer.pack({"w": tensor}, tmp_path / "w.goss")


def test_a_copy_of_a_tied_tensor_keeps_its_tie(tmp_path):
    weight, copy = torch.ones(20, 20), torch.ones(20, 20)
    made = {"a": weight, "b": copy, "c": copy}
    assert gossamer.pack(made, tmp_path / "w.goss").aliases == {"c": "b"}
    gossamer.unpack(tmp_path / "w.goss", tmp_path / "w.safetensors")
    assert_same(load_file(tmp_path / "w.safetensors"), made)


def test_views_of_arrays_are_packed_as_they_look(tmp_path):
    array = np.arange(3000, dtype=np.int64).reshape(60, 50)
    made = {"turned": array.T, "reversed": array[::2, ::-1], "columns": np.asfortranarray(array + 1)}
    gossamer.pack(made, tmp_path / "w.goss")
    gossamer.unpack(tmp_path / "w.goss", tmp_path / "w.safetensors")
    back = load_file(tmp_path / "w.safetensors")
    assert all(np.array_equal(back[name].numpy(), value) for name, value in made.items())


def test_a_file_with_many_names_for_a_large_tensor_is_bounded(tmp_path):
    aliases = {f"a{number}": "w" for number in range(99)}
    gossamer.artifact.save(tmp_path / "w.goss", gossamer.Artifact({"w": encode(np.zeros(1 << 16))}, aliases))
    with pytest.raises(ArtifactError, match=r"tensors: unpacks to 5.* bytes, more than the 1000000 allowed"):
        gossamer.unpack(tmp_path / "w.goss", tmp_path / "w.safetensors", max_bytes=1_000_000)
    assert list(tmp_path.iterdir()) == [tmp_path / "w.goss"]


def test_bars_tell_of_every_tensor(tmp_path):
    bars = Progress(disable=True)
    gossamer.pack(large(), tmp_path / "w.goss", progress=bars)
    gossamer.unpack(tmp_path / "w.goss", tmp_path / "w.safetensors", progress=bars)
    assert [task.completed for task in bars.tasks] == [len(large())]


PROGRAM = """
import sys, tracemalloc
import numpy as np
from gossamer import pack, unpack
from gossamer.codec.safetensors import head
from gossamer.codec.source import Entry

SIDE = 256
folder, count = sys.argv[1], int(sys.argv[2])
entries = [Entry(f"{k}.weight", "float32", (SIDE, SIDE)) for k in range(count)]
generator = np.random.default_rng(0)
with open(f"{folder}/m.safetensors", "wb") as file:
    file.write(head(entries, {})[0])
    for _ in entries:
        file.write(generator.standard_normal((SIDE, SIDE), dtype=np.float32).tobytes())
for settings in ({}, {"step": 0.5}, {"size": count * SIDE * SIDE // 3}):
    tracemalloc.start()
    pack(f"{folder}/m.safetensors", f"{folder}/m.goss", **settings)
    packing = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    unpack(f"{folder}/m.goss", f"{folder}/n.safetensors")
    print(packing / SIDE**2 / 4, tracemalloc.get_traced_memory()[1] / SIDE**2 / 4)
    tracemalloc.stop()
sys.exit("torch was imported" if "torch" in sys.modules else 0)
"""


@pytest.mark.slow
def test_memory_holds_one_tensor_and_torch_stays_out(tmp_path):
    """The peak is that of coding one tensor, whatever their number; the file grows by a factor of eight."""
    peaks = {}
    for count in (5, 40):
        command = [sys.executable, "-c", PROGRAM, tmp_path, str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        peaks[count] = np.array([float(number) for number in done.stdout.split()])
    assert (peaks[40] < peaks[5] + 1).all(), peaks

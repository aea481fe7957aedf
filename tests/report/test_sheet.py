"""Tables at 80 columns: no line is too long, and no number is broken."""

import io

import msgspec
import pytest
from rich.console import Console

from gossamer.report import Report, Sheet, SiteState, State, StepReport, computed, measured, show
from gossamer.report.sheet import folded


def printed(*parts: object, width: int = 80) -> str:
    sink = io.StringIO()
    console = Console(width=width, file=sink, highlight=False)
    for part in parts:
        console.print(part)
    return sink.getvalue()


def test_a_table_with_room_is_left_as_it_is():
    text = printed(Sheet(("a", "b"), (("x", "1"), ("y", "1"))))
    assert [line.split() for line in text.splitlines()] == [["a", "b"], ["x", "1"], ["y", "1"]]


def test_what_is_the_same_in_every_row_is_said_once_where_there_is_no_room():
    sheet = Sheet(("name", "dtype", "bytes"), (("a", "float32", "1234"), ("b", "float32", "5678")))
    text = printed(sheet, width=18)
    assert text.count("float32") == 1
    assert "the same in every row" in " ".join(text.split())
    assert "1234" in text


def test_columns_without_a_place_follow_in_another_block():
    columns = tuple(f"column{number}" for number in range(20))
    rows = tuple((f"row{row}", *(f"{row}{number:06d}" for number in range(20))) for row in range(3))
    lines = printed(Sheet(("name", *columns), rows)).splitlines()
    assert max(map(len, lines)) <= 80
    words = " ".join(lines).split()
    assert all(words.count(cell) == 1 for row in rows for cell in row[1:])
    assert words.count("row0") == words.count("name") > 1


def test_long_names_are_folded_in_the_middle_and_stay_different():
    names = [f"encoder.layers.{number}.self_attention.out_proj.weight" for number in range(12)]
    short = folded(names)
    assert len(set(short)) == 12
    assert all("…" in name and len(name) < 50 and name.endswith("weight") for name in short)
    assert folded(["a.weight", "b.weight"]) == ["a.weight", "b.weight"]
    assert len(folded(["some.very.long.name.of.a.single.weight"])[0]) == 24


def test_text_is_wrapped_and_numbers_are_not():
    sheet = Sheet(("name", "number", "why"), (("a", "123456789", "because " * 20), ("b", "1", "")), ("why",))
    lines = printed(sheet).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("123456789" in line for line in lines)


def state(file: int, accuracy: float, sites: int) -> State:
    return State(
        sites=tuple(
            SiteState(
                site=f"features.{number}.branch.convolution.weight",
                kind="conv",
                shape=(128, 64, 3, 3),
                density=measured(0.12345, "share"),
                distinct=measured(file),
                bits=measured(8.123, "bit"),
                bytes=measured(file, "B"),
            )
            for number in range(sites)
        ),
        metrics={"loss": measured(0.12345 * file), "accuracy": measured(accuracy, "share")},
        weights_only=measured(file, "B"),
        self_contained=measured(file + 5000, "B"),
        parameters=measured(266_610),
        macs=computed(266_200),
        energy=computed(1e-6 * file, "J"),
        latency=measured(1e-9 * file, "s"),
        spread=measured(0.0, "s"),
        memory=measured(1000 * file, "B"),
    )


def test_a_whole_report_fits():
    steps = tuple(
        StepReport(number=number, name="quantize.post_training", after=state(900_123 // number, 0.9, 3))
        for number in (1, 2, 3)
    )
    made = Report(
        recipe="deep-compression",
        task="digits",
        seed=0,
        metric="accuracy",
        direction="max",
        dense=computed(1_066_440, "B"),
        start=state(1_000_000, 0.91, 3),
        steps=steps,
        test_before={"accuracy": measured(0.91, "share")},
        test_after={"accuracy": measured(0.9, "share")},
    )
    sink = io.StringIO()
    show(made, Console(width=80, file=sink))
    lines = sink.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    for whole in ("900.1 kB (-99.88 kB)", "905.1 kB (-99.88 kB)", "1 MB → 300 kB", "266.2 k*", "900.1 MB (-99.88 MB)"):
        assert any(whole in line for line in lines), whole
    assert "the same in every row: parameters 266.6 k, MACs 266.2 k*" in sink.getvalue()
    wide = io.StringIO()
    show(msgspec.structs.replace(made, steps=steps[:1]), Console(width=200, file=wide))
    assert "the same in every row" not in wide.getvalue()


@pytest.mark.parametrize("width", [1, 10, 40])
def test_a_console_that_is_too_narrow_for_anything_is_no_error(width):
    assert printed(Sheet(("name", "n"), (("a" * 30, "1" * 30), ("b", "2"))), width=width)

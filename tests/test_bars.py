import io

from rich.console import Console

from gossamer import bars


def shown(monkeypatch, *moments):
    """What two bars say where no bar can be drawn, with each turn of the inner one at its moment, in seconds."""
    console = Console(file=io.StringIO())
    clock = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: clock[-1])
    with bars.display(console) as progress:
        outer = progress.add_task("", total=2)
        progress.update(outer, description="step 1/2 prune.magnitude")
        with bars.bar(progress, "evidence", 3) as turn:
            for moment in moments:
                clock.append(moment)
                turn()
    return console.file.getvalue().splitlines()


def test_where_no_bar_can_be_drawn_a_line_says_at_once_and_then_every_half_minute_what_is_under_way(monkeypatch):
    first, later = shown(monkeypatch, 1.0, bars.EVERY, bars.EVERY + 1)
    assert first == "step 1/2 prune.magnitude"
    assert later == "step 1/2 prune.magnitude, evidence 2/3"


def test_a_line_does_not_wait_for_the_first_turn():
    console = Console(file=io.StringIO())
    with bars.display(console) as progress:
        progress.add_task("scanning", total=40)
    assert console.file.getvalue() == "scanning 0/40\n"


def test_a_terminal_gets_bars():
    with bars.display(Console(file=io.StringIO(), force_terminal=True, width=120)) as progress:
        progress.add_task("evidence", total=3)
    assert type(progress) is not bars.Lines
    assert "evidence" in progress.console.file.getvalue()

"""A table that fits its console: no number is broken over two lines, however narrow it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

GAP = 2
NAME = 24
"""A name in the first column, or a title, may be folded to this, or to a third of a console that is too narrow."""
PROSE = 20
"""Columns of text may be wrapped to this."""


@dataclass(frozen=True)
class Sheet:
    """Rows under titles.

    Where the console is too narrow for all columns, those that say the same in every row become a line below, names
    are folded in the middle, text is wrapped, and the columns that still have no place follow in further blocks.

    Attributes:
        titles: of the columns; the first column names the rows.
        rows: the cells, each row as long as ``titles``.
        left: titles of columns of text; the others, but for the first, hold numbers and are set right.
        heading: a line above.
    """

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: tuple[str, ...] = ()
    heading: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the blocks that fit, and what is the same in all rows."""
        width = options.max_width
        if self.heading:
            yield Text(self.heading, style="italic")
        if self._width(range(len(self.titles))) <= width:
            yield self._table(range(len(self.titles)))
            return
        same = [column for column in range(1, len(self.titles)) if self._same(column)]
        folded = self._folded(max(NAME, width // 3))
        for block in folded._blocks([column for column in range(1, len(self.titles)) if column not in same], width):  # noqa: SLF001
            yield folded._table(block)  # noqa: SLF001
        if same:
            said = ", ".join(f"{self.titles[column]} {self.rows[0][column]}" for column in same)
            yield Text(f"the same in every row: {said}")

    def _same(self, column: int) -> bool:
        return len(self.rows) > 1 and len({row[column] for row in self.rows}) == 1

    def _folded(self, most: int) -> "Sheet":
        names = folded([row[0] for row in self.rows], most)
        rows = tuple((name, *row[1:]) for name, row in zip(names, self.rows, strict=True))
        titles = tuple(folded(self.titles, most))
        left = tuple(title for title, before in zip(titles, self.titles, strict=True) if before in self.left)
        return Sheet(titles, rows, left)

    def _needs(self, column: int, most: int | None = None) -> int:
        longest = max(len(cells[column]) for cells in (self.titles, *self.rows))
        return longest if most is None or not self._prose(column) else min(longest, most)

    def _prose(self, column: int) -> bool:
        return column > 0 and self.titles[column] in self.left

    def _width(self, columns: Sequence[int], most: int | None = None) -> int:
        return sum(self._needs(column, most) + GAP for column in columns) - GAP

    def _blocks(self, columns: Sequence[int], width: int) -> Iterator[list[int]]:
        block = [0]
        for column in columns:
            if len(block) > 1 and self._width([*block, column], PROSE) > width:
                yield block
                block = [0]
            block.append(column)
        yield block

    def _table(self, columns: Sequence[int]) -> Table:
        made = Table(box=None, pad_edge=False)
        for column in columns:
            prose = self._prose(column)
            made.add_column(
                Text(self.titles[column]),
                justify="left" if column == 0 or prose else "right",
                overflow="fold",
                no_wrap=not prose,
                min_width=None if prose else self._needs(column),
            )
        for row in self.rows:
            made.add_row(*(Text(row[column]) for column in columns))
        return made


def folded(names: Sequence[str], least: int = NAME) -> list[str]:
    """Return ``names`` with their middles left out: ``least`` letters each, or more where they would become equal."""
    longest = max(map(len, names), default=0)
    for most in range(least, longest):
        for tail in (2 * most // 3, most // 3):  # names differ at their ends, or by the number of a layer before
            short = [_fold(name, most, tail) for name in names]
            if len(set(short)) == len(set(names)):
                return short
    return list(names)


def _fold(name: str, most: int, tail: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1 - tail]}…{name[-tail:]}"

"""Tables of figures for people to read. Every cell is computed from what goes into the JSON."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import rich.box
import rich.table

Row = Mapping[str, Any]
Columns = Sequence[tuple[str, Callable[[Row], str]]]
"""The heading of each column, and the function from a row to its cell."""


def table(title: str, columns: Columns, blocks: Mapping[str, Sequence[Row]]) -> rich.table.Table:
    """A table of several blocks of rows, each under its name.

    Args:
        title: What the figures measure.
        columns: The columns. The first one holds labels, all others figures.
        blocks: The rows by the name of their block; a block with an empty name has no heading.
    """
    made = rich.table.Table(
        box=rich.box.SIMPLE_HEAD,
        title=title,
        title_style="bold",
        pad_edge=False,
        collapse_padding=True,
    )
    for position, (heading, _) in enumerate(columns):
        made.add_column(heading, justify="right" if position else "left", no_wrap=True)
    for name, rows in blocks.items():
        if name:
            made.add_row(name, style="bold")
        for row in rows:
            first, *others = (cell(row) for _, cell in columns)
            made.add_row(f"  {first}" if name else first, *others)
        made.add_section()
    return made


def ratio_columns(heading: str = "ratio", get: Callable[[Row], Row] = lambda row: row) -> Columns:
    """Two columns: a ratio, and the middle half of the ratios of single rounds.

    Args:
        heading: The heading of the ratio.
        get: Returns the mapping with `ratio` and `ratio_quartiles` from a row.
    """
    return [
        (heading, lambda row: short(get(row)["ratio"])),
        ("middle half", lambda row: spread(*get(row)["ratio_quartiles"])),
    ]


def short(number: float | None) -> str:
    """A number with about three digits; — if there is none.

    >>> short(1.234), short(56.78), short(1234.5), short(None)
    ('1.23', '56.8', '1,234', '—')
    """
    if number is None or math.isnan(number):
        return "—"
    if number >= 1000:
        return f"{number:,.0f}"
    return f"{number:.2f}" if number < 10 else f"{number:.1f}"


def duration(seconds: float | None) -> str:
    """Seconds in a suitable unit; — if there are none.

    >>> duration(0.0123), duration(4e-6)
    ('12.3 ms', '4.00 µs')
    """
    if seconds is None or math.isnan(seconds):
        return "—"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{short(seconds / size)} {unit}"
    return f"{short(seconds / 1e-6)} µs"


def count(number: int | None, unit: str) -> str:
    """A whole number with its unit; — if there is none."""
    return "—" if number is None else f"{number:,} {unit}"


def spread(low: float | None, high: float | None) -> str:
    """A range of numbers; — if there is none."""
    return "—" if low is None or high is None else f"{short(low)}–{short(high)}"


def blocks_by(key: str, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows grouped by the value under a key, in the order of first appearance."""
    blocks: dict[str, list[Row]] = {}
    for row in rows:
        blocks.setdefault(str(row[key]), []).append(row)
    return blocks


def jsonable(content: Any) -> Any:
    """The content with None in place of NaN and infinity, which JSON cannot hold."""
    if isinstance(content, Mapping):
        return {key: jsonable(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [jsonable(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content

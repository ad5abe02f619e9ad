"""How figures are told: tables for people. Every cell is computed from what goes into the JSON."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import rich.box
import rich.table

Row = Mapping[str, Any]
Columns = Sequence[tuple[str, Callable[[Row], str]]]


def table(title: str, columns: Columns, blocks: Mapping[str, Sequence[Row]]) -> rich.table.Table:
    """A table of several blocks of rows, each under its name, unless that is empty.

    Args:
        title: What the figures are.
        columns: The heading of each column, and the cell of a row in it. The first column holds
            names, all others figures.
        blocks: The rows, by the name of their block.
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


def short(number: float | None) -> str:
    """Three digits or so; — where there is no number."""
    if number is None or math.isnan(number):
        return "—"
    if number >= 1000:
        return f"{number:,.0f}"
    return f"{number:.2f}" if number < 10 else f"{number:.1f}"


def duration(seconds: float | None) -> str:
    """Seconds in the unit that suits them."""
    if seconds is None or math.isnan(seconds):
        return "—"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{short(seconds / size)} {unit}"
    return f"{short(seconds / 1e-6)} µs"


def count(number: int | None, unit: str) -> str:
    """A whole number with its unit."""
    return "—" if number is None else f"{number:,} {unit}"


def spread(low: float | None, high: float | None) -> str:
    """The middle half."""
    return "—" if low is None or high is None else f"{short(low)}–{short(high)}"


def blocks_by(key: str, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows in blocks, by what they have under a key, in the order of first appearance."""
    blocks: dict[str, list[Row]] = {}
    for row in rows:
        blocks.setdefault(str(row[key]), []).append(row)
    return blocks


def jsonable(content: Any) -> Any:
    """The content with None for what JSON has no number for (NaN of a contestant that failed)."""
    if isinstance(content, Mapping):
        return {key: jsonable(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [jsonable(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content

"""Measures sections one after the other, prints their tables, and writes their figures as JSON.

A section is a module with `measure(settings)`, which returns figures, and `tables(content)`, which
shows them. The tables are made from the same content that the JSON gets.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import rich.console
import rich.table

from fgsgd_jax.experiments.bench import environment
from fgsgd_jax.experiments.bench.config import Settings
from fgsgd_jax.experiments.bench.formatting import jsonable
from fgsgd_jax.experiments.files import write_json

WIDTH = 100  # columns of text that goes to a file: the widest table fits

Tables = list[str | rich.table.Table]


class Section(Protocol):
    """What is measured together."""

    def measure(self, settings: Any, /) -> Any:
        """The figures."""
        ...

    def tables(self, content: Any, /) -> Tables:
        """The figures, for people to read."""
        ...


def measure(
    sections: Mapping[str, Section],
    settings: Settings,
    *,
    json_path: Path | None = None,
    on_measured: Callable[[str, str, Tables], None] | None = None,
) -> None:
    """Measures all sections and prints their tables.

    Args:
        sections: The sections by name.
        settings: What to measure.
        json_path: The file for all figures; None writes none.
        on_measured: Called after each section with its name, the line about the machine, and its
            tables.

    Raises:
        UsageError: If a file cannot be written.
    """
    console = new_console()
    content: dict[str, Any] = {**environment.environment(), "settings": _as_json(settings)}
    headline = environment.headline(content, settings.rounds)
    console.print(headline)
    started = time.perf_counter()
    for name, section in sections.items():
        content[name] = jsonable(section.measure(settings))
        tables = section.tables(content[name])
        for table in tables:
            console.print(table)
        if json_path:  # after each section, so that a failure of a later one loses nothing
            write_json(json_path, content)
        if on_measured:
            on_measured(name, headline, tables)
    load = environment.shown_load(environment.load())
    console.print(f"{time.perf_counter() - started:.0f} s in all, load at the end {load}")


def new_console() -> rich.console.Console:
    """Where tables are printed: as wide as the terminal, or wide enough for every table."""
    console = rich.console.Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def _as_json(settings: Settings) -> dict[str, Any]:
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in values.items()
    }

"""The committed table: reading, writing, comparing and showing counts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fgsgd_jax.experiments.bench import formatting, sections
from fgsgd_jax.experiments.files import write_text

from .. import results
from .devices import DEVICES

PATH = Path(__file__).with_name("counts.jsonl")
"""One JSON object for each update and device; `write` also makes a table of it, COUNTS.md."""

COUNTS = ("bytes", "kernels", "temporary", "collectives", "atomics")

# Counts differ a little between versions of XLA; of one version they do not.
TOLERANCE = 0.01

Row = Mapping[str, Any]
Key = tuple[str, str, str]


def key_of(row: Row) -> Key:
    """What tells the rows of a table apart."""
    return row["device"], row["block"], row["label"]


def read(path: Path = PATH) -> dict[Key, Row]:
    """The committed rows."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {key_of(row): row for row in map(json.loads, lines)}


def write(rows: Sequence[Row], headline: str, path: Path = PATH) -> None:
    """Replaces the rows that were counted, keeps all others, and makes the table of all.

    Args:
        rows: What was counted.
        headline: The versions that counted it.
        path: The file of the rows; the table is COUNTS.md beside it.
    """
    merged = read(path) | {key_of(row): row for row in rows}
    ordered = sorted(merged.values(), key=lambda row: list(DEVICES).index(row["device"]))
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ordered))
    shown = results.block("python -m tests.benchmarks.compiled --write", headline, tables(ordered))
    write_text(path.with_name("COUNTS.md"), f"# What updates cost as compiled\n\n{shown}\n")


def worse(rows: Sequence[Row], before: Mapping[Key, Row]) -> list[str]:
    """A sentence for every count that is larger than in the committed table."""
    return [
        f"{DEVICES[row['device']].title}, {row['block']}, {row['label']}: {count} "
        f"{row[count]:.4g}, {before[key_of(row)][count]:.4g} in the committed table."
        for row in rows
        if key_of(row) in before
        for count in COUNTS
        if row[count] > before[key_of(row)][count] * (1 + TOLERANCE) + 1e-3
    ]


def tables(rows: Sequence[Row], before: Mapping[Key, Row] | None = None) -> sections.Tables:
    """A table for each device, with the committed bytes if they are given."""

    def former(row: Row) -> float | None:
        return (before or {}).get(key_of(row), {}).get("bytes")

    def over_sgd(row: Row) -> float | None:
        same = [r for r in rows if (r["device"], r["block"]) == (row["device"], row["block"])]
        sgd = [r["bytes"] for r in same if r["label"] == "optax.sgd, momentum"]
        return row["bytes"] / sgd[0] if sgd else None

    columns: formatting.Columns = [
        ("update", lambda row: row["label"]),
        ("bytes", lambda row: formatting.short(row["bytes"])),
        *([("committed", lambda row: formatting.short(former(row)))] if before else []),
        ("limit", lambda row: formatting.short(row["limit"])),
        ("÷ sgd", lambda row: formatting.short(over_sgd(row))),
        ("kernels", lambda row: formatting.short(row["kernels"])),
        ("temporary", lambda row: formatting.short(row["temporary"])),
        ("atomics", lambda row: str(row["atomics"])),
    ]
    shown: sections.Tables = []
    for name in dict.fromkeys(row["device"] for row in rows):
        own = [row for row in rows if row["device"] == name]
        title = f"{DEVICES[name].title}: bytes per weight and kernels per leaf of an update"
        shown.append(formatting.table(title, columns, formatting.blocks_by("block", own)))
    return shown

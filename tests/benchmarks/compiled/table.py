"""The committed table: reading, writing, comparing and showing counts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.table

from fgsgd_jax.experiments.bench import formatting
from fgsgd_jax.experiments.files import write_text

from .devices import DEVICES

PATH = Path(__file__).with_name("counts.jsonl")

COUNTS = ("bytes", "kernels", "temporary", "collectives", "atomics")

# Counts differ a little between versions of XLA; of one version they do not.
TOLERANCE = 0.01

Row = dict[str, Any]
Key = tuple[str, str, str]


def key_of(row: Row) -> Key:
    """What tells the rows of a table apart."""
    return row["device"], row["block"], row["label"]


def read(path: Path = PATH) -> dict[Key, Row]:
    """The committed rows."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {key_of(row): row for row in map(json.loads, lines)}


def write(rows: Sequence[Row], path: Path = PATH) -> None:
    """Replaces the rows that were counted, and keeps all others."""
    merged = read(path) | {key_of(row): row for row in rows}
    write_text(path, "".join(json.dumps(row) + "\n" for row in merged.values()))


def worse(rows: Sequence[Row], before: dict[Key, Row]) -> list[str]:
    """A sentence for every count that is larger than in the committed table."""
    return [
        f"{DEVICES[row['device']].title}, {row['block']}, {row['label']}: {count} "
        f"{row[count]:.4g}, {before[key_of(row)][count]:.4g} in the committed table."
        for row in rows
        if key_of(row) in before
        for count in COUNTS
        if row[count] > before[key_of(row)][count] * (1 + TOLERANCE) + 1e-3
    ]


def tables(rows: Sequence[Row], before: dict[Key, Row]) -> list[rich.table.Table]:
    """A table for each device."""

    def former(row: Row) -> float | None:
        return before.get(key_of(row), {}).get("bytes")

    def over_sgd(row: Row) -> float | None:
        same = [r for r in rows if (r["device"], r["block"]) == (row["device"], row["block"])]
        sgd = [r["bytes"] for r in same if r["label"] == "optax.sgd, momentum"]
        return row["bytes"] / sgd[0] if sgd else None

    columns: formatting.Columns = [
        ("update", lambda row: row["label"]),
        ("bytes", lambda row: formatting.short(row["bytes"])),
        ("committed", lambda row: formatting.short(former(row))),
        ("limit", lambda row: formatting.short(row["limit"])),
        ("÷ sgd", lambda row: formatting.short(over_sgd(row))),
        ("kernels", lambda row: formatting.short(row["kernels"])),
        ("temporary", lambda row: formatting.short(row["temporary"])),
        ("atomics", lambda row: str(row["atomics"])),
    ]
    shown = []
    for name in dict.fromkeys(row["device"] for row in rows):
        own = [row for row in rows if row["device"] == name]
        title = f"{DEVICES[name].title}: bytes per weight and kernels per leaf of an update"
        shown.append(formatting.table(title, columns, formatting.blocks_by("block", own)))
    return shown

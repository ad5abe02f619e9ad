"""The results of a device: a file with one JSON object a line, a Markdown table and a figure."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fgsgd_jax.experiments import plots
from fgsgd_jax.experiments.bench import formatting, sections
from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.files import write_text

from .. import results

ROWS, TABLE, FIGURE = "results.jsonl", "results.md", "results.png"

Row = Mapping[str, Any]


def append(folder: Path, row: Row) -> None:
    """Appends a row to the file, which is complete after every row."""
    with (folder / ROWS).open("a") as file:
        file.write(json.dumps(formatting.jsonable(row), ensure_ascii=False) + "\n")


def read(folder: Path) -> list[Row]:
    """All rows, without a last one that was cut off."""
    path = folder / ROWS
    if not path.exists():
        raise UsageError(f"{path} does not exist; measure without --again, or name the folder.")
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def write(folder: Path, command: str) -> sections.Tables:
    """Makes the table and the figure from the rows, and returns the tables."""
    rows = read(folder)
    about = next(row for row in rows if row["kind"] == "device")
    shown = tables(rows)
    text = results.block(command, headline(about), shown)
    title = f"# Updates on {about['device']}"
    link = f"![Times over momentum SGD]({FIGURE})\n\n" if of_kind(rows, "update") else ""
    write_text(folder / TABLE, f"{title}\n\n{link}{text}\n")
    if link:
        draw(folder / FIGURE, about, of_kind(rows, "update"))
    return shown


def headline(about: Row) -> str:
    """The device and the versions, in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return f"{about['device']}, driver {about['driver']}, {versions}, {about['rounds']} rounds"


def of_kind(rows: Sequence[Row], kind: str) -> list[Row]:
    """The rows of one kind."""
    return [row for row in rows if row["kind"] == kind]


def tables(rows: Sequence[Row]) -> sections.Tables:
    """The rows for people to read."""
    shown: sections.Tables = []
    for kind, title, columns in (
        ("check", "error of an update", CHECKS),
        ("update", "time of an update / time of the first in its block", UPDATES),
        ("peer", "time of a step of PyTorch on the same weights", PEERS),
    ):
        own = of_kind(rows, kind)
        if own:
            shown.append(formatting.table(title, columns, formatting.blocks_by("block", own)))
    for row in of_kind(rows, "skipped"):
        shown.append(f"Not measured: {row['block']}: {row['label']} ({row['reason']})")
    return shown


def _yes(value: bool | None) -> str:
    return "—" if value is None else "yes" if value else "NO"


def _rate(row: Row) -> str:
    moved = row.get("bytes")
    return "—" if not moved else f"{moved / row['seconds'] / 1e12:.2f}"


CHECKS: formatting.Columns = [
    ("update", lambda row: row["label"]),
    ("error", lambda row: f"{row['error']:.1e}" if row["error"] is not None else "NaN"),
    ("equal", lambda row: _yes(row["equal"])),
]

UPDATES: formatting.Columns = [
    ("update", lambda row: row["label"]),
    *formatting.ratio_columns(),
    ("median", lambda row: formatting.duration(row["seconds"])),
    ("kernels", lambda row: formatting.short(row["kernels"])),
    ("TB/s", _rate),
    ("equal", lambda row: _yes(row["equal"] and row["finite"])),
]

PEERS: formatting.Columns = [
    ("step", lambda row: row["label"]),
    ("÷ sgd of JAX", lambda row: formatting.short(row["ratio"])),
    ("median", lambda row: formatting.duration(row["seconds"])),
]


def draw(path: Path, about: Row, rows: Sequence[Row]) -> None:
    """Draws the ratios of all updates, one panel for each block."""
    blocks = formatting.blocks_by("block", rows)
    heights = [len(own) + 1 for own in blocks.values()]
    figure = Figure(figsize=(8, 0.22 * sum(heights) + 0.7 * len(blocks)), layout="constrained")
    panels = figure.subplots(len(blocks), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (name, own) in zip(panels, blocks.items(), strict=True):
        ratios = [row["ratio"] for row in own]
        colors = [plots.LIGHT_BLUE if _is_peer(row) else plots.DARK_BLUE for row in own]
        panel.barh(range(len(own)), ratios, color=colors)
        panel.set_yticks(range(len(own)), [row["label"] for row in own], fontsize=7)
        panel.invert_yaxis()
        panel.axvline(1, color=plots.ORANGE, linewidth=1)
        panel.set_title(name, fontsize=9, loc="left")
        for position, ratio in enumerate(ratios):
            panel.text(ratio, position, f" {ratio:.2f}", va="center", fontsize=6)
    panels[-1].set_xlabel("time of an update / time of optax.sgd with momentum")
    figure.suptitle(headline(about), fontsize=8)
    plots.save(figure, path)


def _is_peer(row: Row) -> bool:
    return row["label"].startswith(("optax.", "jnp."))

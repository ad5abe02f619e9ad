"""The results of a device: a file with one JSON object a line, a Markdown table and a figure."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fgsgd_jax.experiments import plots
from fgsgd_jax.experiments.bench import formatting, sections
from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.files import write_text

from .. import results
from .cases import SMALL

# The goals for whole updates of the 3×3 kernels of ResNet-18 in float32, by manifolds.
GOALS = {"sphere": 1.5, "oblique": 1.5, "stiefel": 2.0, "sphere+oblique+stiefel": 2.5}

Row = Mapping[str, Any]


def append(path: Path, row: Row) -> None:
    """Appends a row to the file, which is complete after every row."""
    with path.open("a") as file:
        file.write(json.dumps(formatting.jsonable(row), ensure_ascii=False) + "\n")


def read(path: Path) -> list[Row]:
    """All rows, without a last one that was cut off."""
    if not path.exists():
        raise UsageError(f"{path} does not exist; measure without --again, or name the folder.")
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def write(folder: Path, name: str, command: str, into: Path | None = None) -> sections.Tables:
    """Makes the table and the figure from the rows, and returns the tables.

    Args:
        folder: The folder of the rows and the figure.
        name: The name of their files, without the ending.
        command: The command that is shown above the table.
        into: The Markdown file whose block below the link to the figure is replaced by the table;
            None writes the file `<name>.md`.
    """
    rows = read(folder / f"{name}.jsonl")
    about = next(row for row in rows if row["kind"] == "device")
    shown = tables(rows)
    text = results.block(command, headline(about), shown)
    drawn = [row for row in of_kind(rows, "update") if row["ratio"] is not None]
    if drawn:
        draw(folder / f"{name}.png", about, drawn)
    link = f"![Times over momentum SGD]({name}.png)\n\n" if drawn else ""
    if into:
        write_text(into, _replaced(into, link, text))
    else:
        write_text(folder / f"{name}.md", f"# Updates on {about['device']}\n\n{link}{text}\n")
    return shown


def _replaced(path: Path, link: str, text: str) -> str:
    """The text of a file, with a new block below the link."""
    before, found, after = (path.read_text() if path.exists() else "").partition(link)
    if not link or not found:
        raise UsageError(f"--into {path} needs the line {link.strip()!r}, above the table.")
    rest = re.sub(r"\A```text\n.*?^```$", "", after, flags=re.DOTALL | re.MULTILINE).strip("\n")
    return "\n\n".join(filter(None, [f"{before}{link}{text}", rest])) + "\n"


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
    updates = of_kind(rows, "update")
    if updates:
        shown.append(_repeated(updates))
    goals = [row for row in updates if goal(row)]
    if goals:
        met = [f"{row['label']} ({row['ratio']:.2f})" for row in goals if row["ratio"] <= goal(row)]
        shown.append(f"Goals met: {len(met)} of {len(goals)}{': ' if met else ''}{'; '.join(met)}.")
    for row in of_kind(rows, "skipped"):
        shown.append(f"Not measured: {row['block']}: {row['label']} ({row['reason']})")
    return shown


def _repeated(updates: Sequence[Row]) -> str:
    wrong = [row["label"] for row in updates if not (row["equal"] and row["finite"])]
    if wrong:
        return f"NOT FINITE, OR NOT THE SAME BITS in two runs: {'; '.join(wrong)}."
    return "All updates are finite, and gave the same bits in two runs."


def goal(row: Row) -> float | None:
    """The largest ratio that meets the goal of an update; None if it has none."""
    if row["kind"] != "update" or row["block"] != SMALL or not row["label"].startswith("fgsgd"):
        return None
    return GOALS[row["label"].split(", ")[1]]


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
    ("kernels", lambda row: str(row["kernels"] or "—")),
    ("TB/s", _rate),
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
        panel.margins(x=0.08, y=0.02)  # the numbers beside the bars are not cut off
        panel.set_xlim(left=0)
        panel.set_axisbelow(True)
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

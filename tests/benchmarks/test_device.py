"""The benchmark of an accelerator in its smallest size, on the CPU."""

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import fgsgd_jax as fg
from fgsgd_jax.experiments import cli
from fgsgd_jax.experiments.bench import weights

from .device import cases, results, updates
from .device.__main__ import main

HERE = Path(__file__).parent / "device"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("device")
    assert main(["--out", str(path), "--smoke", "--rounds", "2", "--seconds", "1200"]) == 0
    return path


def rows(folder, name="results"):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_updates_are_timed_against_the_first_of_their_block(folder):
    baseline, ours = (row for row in rows(folder) if row["kind"] == "update")
    assert baseline["label"].startswith("optax.sgd")
    assert baseline["ratio"] == 1
    assert ours["label"].startswith("fgsgd")
    assert ours["seconds"] > 0
    assert ours["equal"]
    assert ours["finite"]


@pytest.mark.slow
def test_updates_on_the_device_equal_the_links_in_float64(folder):
    checked = [row for row in rows(folder) if row["kind"] == "check"]
    limits = {"float32": 1e-4, "bfloat16": 1e-2}
    assert len({row["block"] for row in checked}) == 3
    assert len({row["label"] for row in checked}) == 3
    for row in checked:
        assert row["error"] < limits[row["block"].split()[-1]]
        assert row["equal"]


@pytest.mark.slow
def test_table_and_figure_are_made_again_from_the_rows(folder):
    written = {name: (folder / name).read_bytes() for name in ("results.md", "results.png")}
    assert written["results.png"].startswith(b"\x89PNG")
    assert "fgsgd PO, sphere" in written["results.md"].decode()
    for name in written:
        (folder / name).unlink()
    before = (folder / "results.jsonl").read_bytes()
    assert main(["--out", str(folder), "--again"]) == 0
    assert (folder / "results.jsonl").read_bytes() == before
    assert (folder / "results.png").read_bytes().startswith(b"\x89PNG")
    assert "fgsgd PO, sphere" in (folder / "results.md").read_text()


def test_what_is_left_when_the_time_is_over_is_listed(tmp_path):
    arguments = ["--smoke", "--only", "ResNet", "--seconds", "0"]
    assert main(["--out", str(tmp_path), *arguments]) == 0
    skipped = [row for row in rows(tmp_path) if row["kind"] == "skipped"]
    assert len(skipped) == 2
    assert all(row["reason"] == "no time was left" for row in skipped)
    assert "Not measured" in (tmp_path / "results.md").read_text()


def test_a_folder_without_rows_is_named(tmp_path, capsys):
    assert main(["--out", str(tmp_path), "--again"]) == 2
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize("only", [["ResNet-19"], ["checks", "nothing"], ["Peers"]])
def test_a_name_that_is_part_of_no_block_is_refused_with_all_names(tmp_path, capsys, only):
    out = tmp_path / "new"
    assert main(["--out", str(out), "--only", *only]) == 2
    message = capsys.readouterr().err
    assert repr(only[-1]) in message
    for name in ("checks", "peers", *(block.name for block in cases.blocks())):
        assert name in message
    assert not out.exists()


@pytest.mark.parametrize(("kind", "figure"), [("device", False), ("update", True)])
def test_ctrl_c_still_writes_table_and_figure_of_what_is_there(
    tmp_path, capsys, monkeypatch, kind, figure
):
    append = results.append

    def interrupted(path, row):
        append(path, row)
        if row["kind"] == kind:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(results, "append", interrupted)
    before = signal.getsignal(signal.SIGINT)
    cli.leave_at_ctrl_c()  # as where the program runs by itself
    try:
        code = main(["--out", str(tmp_path), "--smoke", "--rounds", "2", "--only", "ResNet"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "Interrupted."
    assert [row["kind"] for row in rows(tmp_path)] == ["device", *(["update"] * figure)]
    assert ("optax.sgd" in (tmp_path / "results.md").read_text()) == figure
    assert (tmp_path / "results.png").exists() == figure


class Recorded:
    """An update that records what is done with it, and is compiled after a number of questions."""

    def __init__(self, name, events, questions=0):
        self.name, self.events, self.questions = name, events, questions

    def begin(self, pool):
        self.events.append(f"trace {self.name}")

    def done(self):
        self.questions -= 1
        return self.questions < 0

    def row(self, rounds, patience):
        return f"measure {self.name}"

    def rows(self, patience):
        yield self.row(1, patience)

    def skipped(self, reason):
        return f"skip {self.name}"


@pytest.mark.parametrize(
    ("checks", "questions", "expected"),
    [
        (None, (0, 0, 0), "trace a, measure a, trace b, measure b, trace c, measure c"),
        (None, (1, 0, 0), "trace a, trace b, measure a, measure b, trace c, measure c"),
        (None, (9, 0, 0), "trace a, trace b, trace c, measure a, measure b, measure c"),
        (1, (0, 0), "trace a, measure checks, measure a, trace b, measure b"),
    ],
)
def test_while_the_next_update_compiles_others_are_traced(checks, questions, expected):
    events = []
    first = None if checks is None else Recorded("checks", events, checks)
    given = [Recorded(name, events, count) for name, count in zip("abc", questions, strict=False)]
    for row in updates.rows(first, given, None, 1, float("inf")):
        events.append(row)
    assert ", ".join(events) == expected


def test_an_update_that_cannot_be_traced_does_not_end_the_others():
    def fails(params):
        raise ValueError("no state")

    block = cases.Block("one", {"w": (3,)}, jnp.float32, (cases.Case("first", fails), cases.SGD))
    with ThreadPoolExecutor(1) as pool:
        end = time.monotonic() + 600
        found = list(updates.rows(None, updates.updates_of([block]), pool, 1, end))
    assert [row["kind"] for row in found] == ["skipped", "skipped"]
    assert "no state" in found[0]["reason"]
    assert "first update" in found[1]["reason"]  # there is nothing to divide its time by


@pytest.mark.parametrize("shape", [(4, 3, 3), (2, 9, 1), (1, 8, 5)])
def test_starting_points_lie_on_their_manifolds(shape):
    norms = {
        fg.Sphere(): lambda x: np.sum(x**2),
        fg.Oblique(): lambda x: np.sum(x**2, axis=0),
        fg.Stiefel(): lambda x: np.sort(np.linalg.eigvalsh(x.T @ x)),
    }
    for manifold, ones in norms.items():
        for point in weights.points_on(manifold, shape):
            np.testing.assert_allclose(ones(point.astype(float)), 1, atol=1e-6)


def test_wide_stiefel_points_have_orthonormal_rows():
    (point,) = weights.points_on(fg.Stiefel(), (1, 5, 8)).astype(float)
    np.testing.assert_allclose(point @ point.T, np.eye(5), atol=1e-6)


def test_starts_have_the_dtypes_of_the_weights_and_keep_those_on_no_manifold():
    params = {"on": jnp.ones((3, 3, 2, 2), jnp.bfloat16), "off": jnp.full((3,), 2.0)}
    spec = fg.collection(params, ("on", fg.pom("PO", (fg.Sphere(), fg.Oblique()))), ("off", None))
    start = weights.start_on(spec, params)
    assert start["on"].dtype == jnp.bfloat16
    assert start["off"] is params["off"]
    squares = np.sum(np.asarray(start["on"], float) ** 2, axis=(0, 1)).ravel()
    manifold_ids = spec["on"].draw().manifold_ids.ravel()
    np.testing.assert_allclose(squares, np.where(manifold_ids == 0, 1, 3), rtol=0.02)


@pytest.mark.parametrize("name", ["h100-registers", "h100-arrays"])
def test_tables_of_the_h100_are_those_of_its_rows(name):
    found = rows(HERE, name)
    command = (
        f"python -m tests.benchmarks.device --out tests/benchmarks/device --name {name} "
        "--into tests/benchmarks/device/H100.md --again"
    )
    block = results.results.block(command, results.headline(found[0]), results.tables(found))
    assert f"![Times over momentum SGD]({name}.png)\n\n{block}\n" in (HERE / "H100.md").read_text()


def test_the_comparison_of_both_ways_on_the_h100_is_that_of_their_rows():
    both = [
        {row["label"]: row for row in rows(HERE, f"h100-{name}") if results.goal(row)}
        for name in ("registers", "arrays")
    ]
    lines = (HERE / "H100.md").read_text().splitlines()
    shown = [line.replace("*", "") for line in lines if line.startswith("| fgsgd")]
    assert len(shown) == len(both[0]) == 16
    for line, label in zip(shown, both[0], strict=True):
        cells = [f"{way[label]['ratio']:.2f} | {way[label]['bytes'] / 1e6:.0f}" for way in both]
        assert line == f"| {label} | {results.goal(both[0][label])} | {' | '.join(cells)} |"


def test_a_table_goes_only_below_a_link_to_its_figure(tmp_path, capsys):
    (tmp_path / "results.jsonl").write_text((HERE / "h100-arrays.jsonl").read_text())
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n![another](results.png)\n\nlast line\n")
    arguments = ["--out", str(tmp_path), "--again", "--into", str(page)]
    assert main(arguments) == 2
    assert "![Times over momentum SGD](results.png)" in capsys.readouterr().err
    link = "# Page\n\n![Times over momentum SGD](results.png)\n\n"
    page.write_text(f"{link}```text\nformer table\n```\n\nlast\n")
    assert main(arguments) == 0
    once = page.read_text()
    assert "former table" not in once
    assert once.startswith(link)
    assert once.endswith("```\n\nlast\n")
    assert once.count("riemannian_adam, oblique") == 1
    assert main(arguments) == 0
    assert page.read_text() == once

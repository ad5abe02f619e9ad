"""The benchmark of an accelerator in its smallest size, on the CPU."""

import json

import pytest

from .device.__main__ import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("device")
    assert main(["--out", str(path), "--smoke", "--rounds", "2"]) == 0
    return path


def rows(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_updates_are_timed_against_the_first_of_their_block(folder):
    baseline, ours = (row for row in rows(folder) if row["kind"] == "update")
    assert baseline["label"].startswith("optax.sgd")
    assert baseline["ratio"] == 1
    assert ours["label"].startswith("fgsgd")
    assert ours["seconds"] > 0
    assert ours["equal"]
    assert ours["finite"]


def test_updates_on_the_device_equal_the_links_in_float64(folder):
    errors = {row["block"]: row["error"] for row in rows(folder) if row["kind"] == "check"}
    limits = {"float32": 1e-4, "bfloat16": 1e-2}
    assert len(errors) == len(limits)
    for block, error in errors.items():
        assert error < limits[block.split()[-1]]


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

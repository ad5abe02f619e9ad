"""Files are replaced in one step: at any moment, each is whole under its name."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fgsgd_jax.experiments import files, plots, run_folder
from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.train import figures


class Unwritable:
    """What is written when the program is stopped: it raises in the middle of the file."""

    def __str__(self):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "write",
    [
        lambda path: run_folder.write_rows(path, [{"a": 1}, {"a": Unwritable()}], ["a"]),
        lambda path: files.write_json(path, {"a": 1, "b": {3: Unwritable()}["c":]}),
        lambda path: plots.save(stopped_figure(), path),
        lambda path: stopped(path),
    ],
    ids=["csv", "json", "figure", "any"],
)
def test_a_file_whose_writing_stops_is_as_it_was(tmp_path, write):
    path = tmp_path / "file.png"
    path.write_text("before")
    with pytest.raises((KeyboardInterrupt, TypeError)):
        write(path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def stopped(path):
    with files.replacing(path) as unfinished:
        unfinished.write_text("half")
        assert path.read_text() == "before"
        raise KeyboardInterrupt


def stopped_figure():
    figure = Figure()

    def savefig(path, **settings):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    figure.savefig = savefig
    return figure


def test_a_file_that_cannot_be_written_is_named_with_what_to_do(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=r"folder cannot be written: it is a folder; remove it\.$"):
        files.write_text(tmp_path / "folder", "text")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"x\.json cannot be written \(\w+ .*\); make room"):
        files.write_json(tmp_path / "file" / "x.json", {})


def test_a_folder_with_an_unfinished_file_only_is_free(tmp_path):
    """As if a program had been killed while it wrote its first file."""
    assert not run_folder.is_taken(tmp_path)
    (tmp_path / f"{files.UNFINISHED}1-config.json").write_text("{")
    assert not run_folder.is_taken(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert run_folder.is_taken(tmp_path)
    assert run_folder.is_taken(tmp_path / "config.json")


@pytest.mark.parametrize(
    "margins",
    [
        [np.inf, -np.inf, np.nan],
        [np.inf, 1.0, 2.0],
        [3.0, 3.0, 3.0],
        [1e200, 1e200],
        [0.0, 0.0],
        [-1e300, 1e300],
        [1e16, 1e16 + 2],
    ],
)
def test_any_margins_can_be_drawn(tmp_path, margins):
    figures.draw_margins(tmp_path / "margins.png", np.array(margins), "title")
    with Image.open(tmp_path / "margins.png") as picture:
        assert picture.width > 700

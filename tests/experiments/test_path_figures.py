"""The program `paths`, end to end on digits at the smallest size, and its manners."""

import csv
import json

import jax
import numpy as np
import pytest

from fgsgd_jax.__main__ import main
from fgsgd_jax.experiments.path_figures import figures_2_and_3, vectors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paths") / "run"
    words = "--units 32 --epochs 3 --validation-epochs 1 --quiet"
    assert main(["paths", *words.split(), "--run-dir", str(folder)]) == 0
    return folder


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_leaves_three_tables_and_three_figures(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "figure1.csv", "figure1.png", "figure2.csv", "figure2.png", "figure3.csv", "figure3.png",
        "first_epoch.csv", "summary.json",
    }  # fmt: skip
    assert [int(row["units"]) for row in rows_of(run / "figure1.csv")] == [8, 16, 32]
    curves = {(row["optimizer"], row["start"]) for row in rows_of(run / "figure3.csv")}
    assert len(curves) == 6
    assert {row["optimizer"] for row in rows_of(run / "figure2.csv")} == {"SGD"}
    assert not jax.config.jax_enable_x64


def test_path_sgd_does_not_feel_the_start_and_the_others_do(run):
    steps = rows_of(run / "first_epoch.csv")

    def losses(optimizer, start):
        return np.array(
            [float(r["loss"]) for r in steps if (r["optimizer"], r["start"]) == (optimizer, start)]
        )

    difference = np.max(
        np.abs(losses("Path-SGD", "balanced") / losses("Path-SGD", "unbalanced") - 1)
    )
    assert difference < 1e-3
    summary = json.loads((run / "summary.json").read_text())["figure 3"]
    shown = "largest relative difference of Path-SGD's loss, steps of epoch 1"
    assert summary[shown] == pytest.approx(difference)
    last = [row for row in rows_of(run / "figure3.csv") if row["epoch"] == "3"]
    loss = {(r["optimizer"], r["start"]): float(r["train_loss"]) for r in last}
    assert loss["SGD", "unbalanced"] > 1.5 * loss["SGD", "balanced"]


def test_images_of_figure_1_have_100_pixels_that_keep_the_mean():
    images = np.random.default_rng(0).integers(0, 255, (4, 28, 28, 3), dtype=np.uint8)
    small = vectors.flattened(images, small=True)
    assert small.shape == (4, 100)
    np.testing.assert_allclose(small.mean(1), images.mean((1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--units 4", "--units must be a whole number of at least 8; got '4'."),
        ("--figures 4", "--figures must be one of 1, 2, 3; got '4'."),
        ("--data mnist", "--data mnist needs --data-dir"),
        ("--data-dir x", "--data-dir has no use for digits"),
        ("--precision half", "--precision must be one of float32, float64; got 'half'."),
        ("--unit 9", "'--unit' is not an argument. Did you mean '--units'?"),
    ],
)
def test_a_mistake_gets_one_line(capsys, words, said):
    assert main(["paths", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_ctrl_c_leaves_what_is_done(tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(figures_2_and_3, "make", interrupted)
    words = "--units 8 --epochs 1 --train-size 200 --quiet --run-dir"
    assert main(["paths", *words.split(), str(tmp_path / "r")]) == 130
    assert "the results so far are in" in capsys.readouterr().err
    assert (tmp_path / "r" / "figure1.png").exists()

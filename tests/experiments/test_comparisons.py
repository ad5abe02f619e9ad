"""Comparisons, tiny ones: which trials are run, that none is run twice, what is reported."""

import csv
import json
import shutil
import statistics

import pytest
from PIL import Image

from fgsgd_jax.__main__ import main

pytestmark = pytest.mark.slow

TINY = "--train-size 120 --channels 3 --seeds 2 --epochs 1 --learning-rates 0.3 1"


def compare(*words):
    return main(["compare", *map(str, words), *TINY.split()])


def trials(folder):
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "coordinates"
    assert compare("--ablate", "coordinates", "--run-dir", folder) == 0
    return folder


def test_every_reading_meets_every_scale_rate_and_seed(folder):
    rows = trials(folder)
    keys = {(row["variant"], row["scale"], row["learning_rate"], row["seed"]) for row in rows}
    assert len(rows) == len(keys) == 3 * 3 * 2 * 2
    assert {row["scale"] for row in rows} == {"10.0", "1.0", "0.1"}
    assert all(0 <= float(row["validation_error"]) <= 1 for row in rows)


def test_what_is_reported_is_the_best_rate_by_validation(folder):
    rows = trials(folder)
    variants = json.loads((folder / "summary.json").read_text())["variants"]
    assert len(variants) == 9
    for best in variants:
        mine = [
            row
            for row in rows
            if (row["variant"], float(row["scale"])) == (best["variant"], best["scale"])
        ]
        means = {
            rate: statistics.mean(
                float(row["validation_error"]) for row in mine if row["learning_rate"] == rate
            )
            for rate in {row["learning_rate"] for row in mine}
        }
        assert means[str(best["learning_rate"])] == min(means.values())
        assert best["validation_error"] == pytest.approx(min(means.values()))
    with Image.open(folder / "comparison.png") as picture:
        assert picture.width > 1000


def test_unit_coordinates_do_not_see_the_scale_of_a_normalized_network(folder):
    losses = {}
    for row in trials(folder):
        if row["variant"] == "unit":
            key = row["learning_rate"], row["seed"]
            losses.setdefault(key, []).append(float(row["train_loss"]))
    for same in losses.values():
        assert len(same) == 3
        assert max(same) == pytest.approx(min(same), rel=1e-2)  # batch normalization has its ε


def test_trials_that_are_done_are_not_run_again(folder, capsys):
    before = (folder / "trials.csv").read_text()
    rows = before.splitlines(keepends=True)
    (folder / "trials.csv").write_text("".join(rows[:-1]))
    assert compare("--ablate", "coordinates", "--run-dir", folder) == 0
    assert (folder / "trials.csv").read_text() == before
    assert "the best rate moves by a factor of" in capsys.readouterr().out


def test_scales_are_compared_with_their_bounds(tmp_path, capsys):
    folder = tmp_path / "scale"
    tiny = "--train-size 120 --channels 3 --seeds 1 --epochs 1 --learning-rates 0.3".split()
    assert main(["compare", "--ablate", "scale", "--run-dir", str(folder), *tiny]) == 0
    bounds = {
        best["variant"]: best["groups_neyshabur_2015"]
        for best in json.loads((folder / "summary.json").read_text())["variants"]
    }
    # Of norms below 1 the product is smaller, the more so the shorter they are.
    assert bounds["literal"] < bounds["geometric"] < bounds["unit scale"]
    out = capsys.readouterr().out
    assert "log of the bound, on groups" in out
    assert "λ of kernels" in out


def test_a_folder_of_something_else_is_not_touched(folder, tmp_path, capsys):
    assert compare("--ablate", "scale", "--run-dir", folder) == 2
    assert "other settings or images" in capsys.readouterr().err
    (tmp_path / "file").write_text("mine")
    assert compare("--ablate", "scale", "--run-dir", tmp_path) == 2
    assert "is not the folder of a comparison" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("epochs", 2, TINY.replace("--epochs 1", "--epochs 2")),
        ("channels", [4], TINY.replace("--channels 3", "--channels 4")),
        ("train_size", 110, TINY.replace("--train-size 120", "--train-size 110")),
    ],
)
def test_settings_that_were_edited_are_noticed_though_the_command_agrees_with_them(
    folder, tmp_path, capsys, name, value, words
):
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    settings = json.loads((run / "config.json").read_text())
    assert settings[name] != value
    (run / "config.json").write_text(json.dumps(settings | {name: value}))
    assert main(["compare", "--ablate", "coordinates", "--run-dir", str(run), *words.split()]) == 2
    err = capsys.readouterr().err
    assert "config.json was edited after the comparison began; undo the edit, or give" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"seed": 5}'])
def test_settings_that_are_not_ours_are_damaged(tmp_path, capsys, text):
    (tmp_path / "config.json").write_text(text)
    assert compare("--ablate", "scale", "--run-dir", tmp_path) == 2
    err = capsys.readouterr().err
    assert "config.json is damaged" in err
    assert err.count("\n") == 1

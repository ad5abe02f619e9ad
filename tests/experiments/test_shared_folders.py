"""Two processes that are given one run folder: the second is refused, until the first has ended."""

import json
import os
import subprocess
import sys

import pytest

from fgsgd_jax.__main__ import main
from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.study import grid, report

REFUSED = r"^Another process is writing its results to .*; wait until it has ended, or give another"
WORDS = [
    *("train", "--train-size", "120", "--batch-size", "40", "--channels", "3"),
    *("--epochs", "1", "--manifolds", "sphere", "--quiet"),
]


def study(run):
    return grid.Study(
        name="seeds",
        title="Seeds",
        cases=[{"size": 1}],
        methods={"a": [{}]},
        run=run,
        score="error",
        results={"error": "error"},
        seeds=3,
        tuning_seeds=3,
        draw=lambda rows, path: path.write_bytes(b""),
    )


def names(folder):
    return {path.name for path in folder.iterdir()}


STUDY_FILES = {"study.json", "trials.jsonl", "table.md", "figure.png"}


def test_a_second_study_in_a_folder_is_refused_and_no_trial_is_written_twice(tmp_path):
    def run(trial):
        with pytest.raises(UsageError, match=REFUSED):
            report.run(study(lambda trial: {"error": 1.0}), tmp_path, quiet=True)
        return {"error": 0.0}

    report.run(study(run), tmp_path, quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert [(row["seed"], row["error"]) for row in rows] == [(0, 0.0), (1, 0.0), (2, 0.0)]
    assert names(tmp_path) == STUDY_FILES
    report.run(study(run), tmp_path, quiet=True)  # the folder is free again
    assert names(tmp_path) == STUDY_FILES


KILLED = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, os.path.dirname({here!r}))
from test_shared_folders import report, study
def run(trial):
    if trial["seed"] == 1:
        print("holds", flush=True)
        time.sleep(600)
    return {{"error": 0.0}}
report.run(study(run), Path({folder!r}), quiet=True)
"""


def test_a_killed_study_is_refused_to_others_while_it_runs_and_blocks_none_afterwards(tmp_path):
    folder = tmp_path / "run"
    program = KILLED.format(here=__file__, folder=str(folder))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment
    ) as process:
        try:
            assert process.stdout.readline() == b"holds\n"
            with pytest.raises(UsageError, match=REFUSED):
                report.run(study(lambda trial: {"error": 1.0}), folder, quiet=True)
        finally:
            process.kill()
    report.run(study(lambda trial: {"error": 0.0}), folder, quiet=True)
    assert len((folder / "trials.jsonl").read_text().splitlines()) == 3
    assert names(folder) == STUDY_FILES


@pytest.mark.parametrize("again", ["--resume", "--run-dir"])
def test_a_run_that_is_being_trained_is_not_resumed_by_another_process(
    tmp_path, monkeypatch, capsys, again
):
    from fgsgd_jax.experiments.train import checkpoints, saved_config

    # The second process comes before config.json, or, to resume, before the first checkpoint.
    owner, name = (checkpoints, "save") if again == "--resume" else (saved_config, "save")
    before = getattr(owner, name)
    run, codes = tmp_path / "run", []

    def second(*args):
        if not codes:
            codes.append(None)
            codes[0] = main([*WORDS, again, str(run)])
        before(*args)

    monkeypatch.setattr(owner, name, second)
    assert main([*WORDS, "--run-dir", str(run)]) == 0
    assert codes == [2]
    error = capsys.readouterr().err
    assert error.startswith(f"error: Another process is writing its results to {run}; wait until")
    assert error.count("\n") == 1
    assert len((run / "metrics.csv").read_text().splitlines()) == 2
    assert not [name for name in names(run) if name.startswith(".")]


def test_a_folder_that_got_no_file_is_removed(tmp_path, monkeypatch, capsys):
    from fgsgd_jax.experiments.train import loop

    def refused(*args, **kwargs):
        raise UsageError("No such images.")

    monkeypatch.setattr(loop, "run", refused)
    assert main(["train", "--run-dir", str(tmp_path / "run")]) == 2
    assert "No such images." in capsys.readouterr().err
    assert names(tmp_path) == set()

"""Ctrl-C in a process of its own, at several moments: exit code 130, one line, nothing lost."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import pytest

from fgsgd_jax.__main__ import main

pytestmark = pytest.mark.slow

SMALL = "--train-size 120 --batch-size 40 --channels 3 --manifolds sphere --epochs 2".split()
TIMEOUT = 120  # seconds until the moment comes


def interrupted(run_dir, words, comes, presses=1, options=()):
    """Starts the program, presses Ctrl-C when `comes(output)` holds, and returns how it ended."""
    command = [sys.executable, "-u", *options, "-m", "fgsgd_jax", *map(str, words)]
    output = run_dir.parent / "output.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=with_compiled_functions())
    try:
        ends = time.monotonic() + TIMEOUT
        while process.poll() is None and not comes(output.read_text()):
            assert time.monotonic() < ends
            time.sleep(0.002)
        assert process.poll() is None, output.read_text()
        for _ in range(presses):
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        return process.wait(TIMEOUT), output.read_text()
    finally:
        process.kill()
        process.wait()


def with_compiled_functions():
    """The environment of a program that shares the compiled functions of this process."""
    settings = {
        name.upper(): str(getattr(jax.config, name))
        for name in (
            "jax_compilation_cache_dir",
            "jax_persistent_cache_min_compile_time_secs",
            "jax_persistent_cache_enable_xla_caches",
        )
    }
    return os.environ | (settings if jax.config.jax_compilation_cache_dir else {})


@pytest.mark.parametrize(
    ("moment", "presses"),
    [
        ("conv1/kernel", 1),
        ("compiling the training step", 1),
        ("compiling the training step", 3),
        ("epoch 1/2", 3),
        ("compiling the evaluation", 1),
    ],
)
def test_ctrl_c_while_training_ends_with_130_and_the_run_continues(tmp_path, moment, presses):
    run = tmp_path / "run"
    words = ["train", "--run-dir", run, *SMALL]
    code, output = interrupted(run, words, lambda shown: moment in shown, presses)
    assert code == 130
    assert "Traceback" not in output
    assert len(re.findall("Interrupted", output)) == 1
    if (run / "config.json").exists():
        assert main(["train", "--resume", str(run), "--quiet"]) == 0
        assert (run / "summary.json").exists()


@pytest.mark.parametrize("name", ["config.json", "checkpoints/2", "curves.png"])
def test_ctrl_c_while_files_are_written_leaves_all_of_them_whole(tmp_path, name):
    run = tmp_path / "run"
    words = ["train", "--run-dir", run, *SMALL, "--quiet"]
    code, output = interrupted(run, words, lambda shown: os.path.exists(run / name))
    assert code == 130
    line = rf"Interrupted; [012] of 2 epochs are saved\. Continue with: .* --resume {run}"
    assert re.fullmatch(rf"({run}\n)?{line}\n", output)
    assert main(["train", "--resume", str(run), "--quiet"]) == 0
    assert {path.name for path in run.iterdir()} == {
        "config.json", "metrics.csv", "summary.json", "checkpoints",
        "curves.png", "diagnostics.png", "margins.png",
    }  # fmt: skip


def test_ctrl_c_in_a_study_keeps_the_trials_that_are_done(tmp_path):
    run = tmp_path / "run"
    words = [*"study coordinates --smoke --quiet --train-size 120 --run-dir".split(), run]
    code, output = interrupted(run, words, lambda shown: os.path.exists(run / "trials.jsonl"))
    assert code == 130
    line = rf"Interrupted; the trials that are done are in {run}\. .* continues from there\.\n"
    assert re.fullmatch(line, output)
    assert all(json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines())
    assert not (run / "table.md").exists()


def test_ctrl_c_while_measuring_ends_with_130(tmp_path):
    words = "bench --width 0.0625 --rounds 2 --manifolds sphere --schemes PO".split()
    code, output = interrupted(tmp_path / "x", words, lambda shown: "rounds" in shown)
    assert code == 130
    assert output.endswith("Interrupted.\n")
    assert "Traceback" not in output


@pytest.mark.parametrize("imported", ["jax._src.config", "jax.numpy", "fgsgd_jax.geometry"])
def test_ctrl_c_while_the_library_is_imported_ends_with_130_and_one_line(tmp_path, imported):
    code, output = interrupted(
        tmp_path / "x",
        ["--version"],
        lambda shown: f" {imported}\n" in shown,
        options=("-X", "importtime"),  # which prints every module that has been imported
    )
    assert code == 130
    said = [line for line in output.splitlines() if not line.startswith("import time:")]
    assert said == ["Interrupted."]

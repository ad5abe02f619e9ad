"""Whole runs, small ones: what they leave behind, and that they go on bit for bit."""

import csv
import errno
import json
import os
import re
import shutil
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from fgsgd_jax.__main__ import main
from fgsgd_jax.experiments import data
from fgsgd_jax.experiments.run_folder import write_rows
from fgsgd_jax.experiments.train import checkpoints, saved_config
from fgsgd_jax.experiments.train.checkpoints import FOLDER
from fgsgd_jax.experiments.train.metrics import METRICS, METRICS_FILE, read_metrics

pytestmark = pytest.mark.slow

SMALL = "--train-size 120 --batch-size 40 --channels 3 4".split()
GROUPS = "--groups 2 --manifolds sp+st --weight-decay 0.001 --learning-rate 0.1 --seed 5".split()
GROUPS += "--scale geometric --feature-batches 2 --min-std 0.2".split()


def train(*words):
    return main(["train", *map(str, words)])


def start(run_dir, *words, epochs=2):
    return train("--run-dir", run_dir, "--epochs", epochs, *SMALL, *words)


def metrics(run_dir):
    """The rows of a run, without the times."""
    with (run_dir / METRICS_FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: row[name] for name in row if name != "seconds_per_step"} for row in rows]


def saved_leaves(run_dir):
    """The arrays of the last checkpoint, read without any help of ours."""
    with ocp.CheckpointManager(run_dir.resolve() / FOLDER) as manager:
        step = manager.latest_step()
        return step, jax.tree.leaves(manager.restore(step, args=ocp.args.StandardRestore()))


def assert_same_run(one, other):
    """Both ended bit for bit in the same place, and on the same way."""
    assert metrics(one) == metrics(other)
    (step, leaves), (other_step, other_leaves) = saved_leaves(one), saved_leaves(other)
    assert step == other_step
    assert len(leaves) == len(other_leaves) > 10
    for leaf, other_leaf in zip(leaves, other_leaves, strict=True):
        np.testing.assert_array_equal(leaf, other_leaf)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run of two epochs that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert start(folder, *GROUPS) == 0
    return folder


def test_metrics_have_a_row_for_each_epoch(run_dir):
    with (run_dir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    columns = "epoch train_loss train_error test_loss test_error drift seconds_per_step"
    assert list(rows[0])[:8] == [*columns.split(), "learning_rate"]
    for row in rows:
        values = {name: float(value) for name, value in row.items()}
        assert values["train_loss"] > 0
        assert values["test_loss"] > 0
        assert 0 <= values["train_error"] <= 1
        assert 0 <= values["test_error"] <= 1
        assert 0 < values["drift"] < 1e-5  # ten steps in float32
        assert values["seconds_per_step"] > 0
        assert 0 < values["group_spectral"] <= values["group_frobenius"] * (1 + 1e-6)
        assert 0 < values["angle"] < np.pi
        assert values["tau"] >= 1
    # γ of 1→3 and 3→4 channels at first; then divided by the measured deviations.
    gammas = [(9 * 4) ** -0.5, (9 * 7) ** -0.5]
    scales = [(float(row["smallest_scale"]), float(row["largest_scale"])) for row in rows]
    assert scales[0] == pytest.approx((min(gammas), max(gammas)), rel=1e-6)
    assert scales[1] != pytest.approx(scales[0], rel=1e-3)
    # Three steps an epoch, so the rate is halved after 18; the last step of the run is number 5.
    assert float(rows[1]["learning_rate"]) == pytest.approx(0.1 / (1 + 5 / 18))


def test_the_test_error_counts_whole_images(run_dir):
    errors = [float(row["test_error"]) * 297 for row in metrics(run_dir)]
    np.testing.assert_allclose(errors, np.round(errors), atol=1e-6)


def test_the_configuration_says_all_that_was_asked_for(run_dir):
    config = json.loads((run_dir / "config.json").read_text())
    assert config["optimizer"] == "fgsgd"
    assert config["manifolds"] == ["sphere", "stiefel"]
    assert config["groups"] == 2
    assert config["channels"] == [3, 4]
    assert config["train_size"] == 120
    assert config["seed"] == 5
    assert set(config["versions"]) >= {"jax", "flax", "optax"}


def test_the_summary_ends_where_the_metrics_end(run_dir):
    summary = json.loads((run_dir / "summary.json").read_text())
    last = metrics(run_dir)[-1]
    for name in ("train_error", "test_error", "train_loss", "test_loss", "drift"):
        assert summary[name] == float(last[name])
    # Two convolutions 3×3 (1→3→4), two normalizations, 2×2 maps of 4 channels to 10 classes.
    assert summary["parameters"] == 27 + 108 + 2 * 3 + 2 * 4 + 16 * 10 + 10
    assert summary["components"] == 3 + 12
    assert summary["groups"] == 2 + 2
    assert summary["epochs"] == 2
    assert summary["steps"] == 6


@pytest.mark.parametrize("name", ["curves", "diagnostics", "margins"])
def test_the_figures_are_pictures_with_something_on_them(run_dir, name):
    with Image.open(run_dir / f"{name}.png") as picture:
        assert picture.width > 700
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20


@pytest.mark.parametrize("scheme", ["PI", "PO"])
def test_norms_of_groups_stay_below_1_under_the_geometric_scale(tmp_path, scheme):
    """Table 1 with λ = 1, in the run's own metrics."""
    run = tmp_path / "run"
    words = ["--scheme", scheme, "--scale", "geometric", "--learning-rate", 3, "--quiet"]
    assert start(run, *words, epochs=2) == 0
    for row in metrics(run):
        assert 0.05 < float(row["group_spectral"]) <= 1
        assert 0.05 < float(row["group_frobenius"]) <= 1


def test_a_run_of_one_more_epoch_is_the_run_that_was_longer(run_dir, tmp_path):
    short = tmp_path / "short"
    assert start(short, *GROUPS, epochs=1) == 0
    assert metrics(short) == metrics(run_dir)[:1]
    assert train("--resume", short, "--epochs", 2) == 0
    assert_same_run(short, run_dir)
    assert json.loads((short / "summary.json").read_text())["epochs"] == 2


@pytest.fixture
def ctrl_c(monkeypatch):
    """Presses Ctrl-C before a batch of an epoch."""
    original = data.batches

    def press(in_epoch, at_batch):
        def batches(images, batch_size, seed, epoch):
            for index, batch in enumerate(original(images, batch_size, seed, epoch)):
                if (epoch, index) == (in_epoch, at_batch):
                    signal.raise_signal(signal.SIGINT)
                yield batch

        monkeypatch.setattr(data, "batches", batches)

    yield press
    monkeypatch.undo()


@pytest.mark.parametrize(("epoch", "batch"), [(1, 1), (2, 0), (2, 2)])
def test_ctrl_c_leaves_a_run_that_resumes_bit_for_bit(
    run_dir, tmp_path, capfd, ctrl_c, monkeypatch, epoch, batch
):
    stopped = tmp_path / "stopped"
    ctrl_c(epoch, batch)
    capfd.readouterr()
    assert start(stopped, *GROUPS, "--quiet") == 130
    out, err = capfd.readouterr()
    assert out == ""
    assert err == (
        f"Interrupted; {epoch - 1} of 2 epochs are saved. "
        f"Continue with: python -m fgsgd_jax train --resume {stopped}\n"
    )
    monkeypatch.undo()
    assert train("--resume", stopped) == 0
    assert_same_run(stopped, run_dir)


def test_a_second_ctrl_c_does_not_wait_for_the_step(tmp_path, capsys, monkeypatch):
    def stuck(*args):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second Ctrl-C had no effect")

    monkeypatch.setattr(data, "batches", stuck)
    assert start(tmp_path / "stuck", "--optimizer", "sgd", "--quiet") == 130
    assert "--resume" in capsys.readouterr().err


def test_ctrl_c_works_as_before_after_a_run(tmp_path):
    before = signal.getsignal(signal.SIGINT)  # a job in the background ignores it
    assert start(tmp_path / "run", *GROUPS, epochs=1) == 0
    assert signal.getsignal(signal.SIGINT) is before


def test_a_row_without_its_checkpoint_is_dropped(run_dir, tmp_path):
    """As if the program had been killed between the two."""
    killed = tmp_path / "killed"
    assert start(killed, *GROUPS, epochs=1) == 0
    rows = read_metrics(killed / "metrics.csv", 1)
    write_rows(killed / "metrics.csv", [*rows, {**rows[0], "epoch": 2}], METRICS)
    assert train("--resume", killed, "--epochs", 2) == 0
    assert_same_run(killed, run_dir)


def test_a_finished_run_says_that_nothing_is_left(run_dir, capsys):
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    assert train("--resume", run_dir) == 0
    assert "2 epochs are done" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before


def test_fewer_epochs_than_are_done_are_refused_and_leave_the_run_as_it_was(run_dir, capsys):
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    assert train("--resume", run_dir, "--epochs", 1) == 2
    assert "2 epochs already, more than --epochs 1" in " ".join(capsys.readouterr().err.split())
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before


def test_what_contradicts_a_run_is_named(run_dir, capsys):
    words = "--optimizer rsgd --channels 3 5 --manifolds ob --seed 5 --learning-rate 0.3".split()
    assert train("--resume", run_dir, *words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    for named in (
        "--optimizer rsgd (but with fgsgd)",
        "--channels 3 5 (but with 3 4)",
        "--manifolds oblique (but with sphere+stiefel)",
        "--learning-rate 0.3 (but with 0.1)",
    ):
        assert named in err
    assert "--seed" not in err


def test_what_repeats_the_configuration_is_welcome(run_dir, capsys):
    assert train("--resume", run_dir, *SMALL, *GROUPS) == 0


def edited(**changes):
    """The edit of config.json that changes or, for `...`, removes some keys."""

    def edit(run):
        path = run / "config.json"
        content = json.loads(path.read_text()) | changes
        kept = {name: value for name, value in content.items() if value is not ...}
        path.write_text(json.dumps(kept))

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (edited(seed=6), "seed is 6 and was 5;"),
        (edited(learning_rate=-1), "learning_rate is -1 and was 0.1;"),
        (edited(learning_rate="fast"), 'learning_rate is "fast" and was 0.1;'),
        (edited(data_digest=None), 'data_digest is null and was "'),
        (edited(data_digest=3), 'data_digest is 3 and was "'),
        (edited(versions={"jax": "0.1"}), 'versions is {"jax": "0.1"} and was {"flax": '),
        (edited(versions=None), "versions is null and was {"),
        (edited(channels=5), "channels is 5 and was [3, 4];"),
        (edited(channels=[3, "4"]), 'channels is [3, "4"] and was [3, 4];'),
        (edited(manifolds="sphere"), 'manifolds is "sphere" and was ["sphere", "stiefel"];'),
        (edited(manifolds=[]), 'manifolds is [] and was ["sphere", "stiefel"];'),
        (edited(scheme="POI"), 'scheme is "POI" and was "PIO";'),
        (edited(optimizer=None), 'optimizer is null and was "fgsgd";'),
        (edited(epochs=9), "epochs is 9 and was 2;"),
        (edited(batch_size=...), "batch_size is missing and was 40;"),
        (edited(sedd=5), "sedd is 5 and was missing;"),
        (edited(seed=6, epochs=9), "epochs is 9 and was 2, seed is 6 and was 5;"),
    ],
)
def test_an_edited_configuration_is_noticed_in_one_sentence_and_nothing_is_changed(
    run_dir, tmp_path, capsys, edit, said
):
    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    edit(run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert train("--resume", run, "--epochs", 3) == 2
    err = capsys.readouterr().err
    assert f"config.json was edited after the run began: {said}" in err
    assert "; undo the edit, or start a new run (--epochs and" in err
    assert err.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("{", "it is not JSON (Expecting property name"),
        ("[]", "it is not the configuration of a run"),
        ("3", "it is not the configuration of a run"),
        ("null", "it is not the configuration of a run"),
        ('{"seed": 5}', "it is not the configuration of a run"),
        ("\x00", "it is not JSON (Expecting value"),
    ],
)
def test_a_configuration_that_is_not_ours_is_damaged(tmp_path, capsys, text, said):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(text)
    assert train("--resume", run) == 2
    err = capsys.readouterr().err
    assert f"config.json is damaged: {said}" in err
    assert err.endswith("; start a new run.\n")
    assert err.count("\n") == 1


def test_a_configuration_that_is_a_folder_is_told(tmp_path, capsys):
    run = tmp_path / "run"
    (run / "config.json").mkdir(parents=True)
    assert train("--resume", run) == 2
    assert "config.json cannot be read (Is a directory); make it a readable file, or start" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("name", ["config.json", METRICS_FILE])
@pytest.mark.parametrize(
    "damage", [b"", b"[]\n", b"\xff\xfe", b"epoch\n", None], ids=["empty", "[]", "?", "cut", "lost"]
)
def test_a_damaged_file_is_restored_from_the_last_checkpoint(
    run_dir, tmp_path, capsys, name, damage
):
    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    (run / name).unlink()
    if damage is not None:
        (run / name).write_bytes(damage)
    assert train("--resume", run, "--quiet") == 0
    out, err = capsys.readouterr()
    assert "2 of 2 epochs are done" in out
    end = "restored from the last checkpoint"
    assert re.fullmatch(rf"note: .*/{name} was .*damaged.*{end}\.\n", err)
    assert (run / name).read_bytes() == (run_dir / name).read_bytes()


def test_other_versions_than_at_the_start_are_noticed(run_dir, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    saved = saved_config.load(run)
    saved_config.save(run, saved._replace(versions=saved.versions | {"optax": "0.1.2"}))
    assert train("--resume", run, "--quiet") == 0
    err = capsys.readouterr().err
    assert re.fullmatch(r"note: .* was begun with optax 0\.1\.2 \(now \S+\); .*\n", err)


@pytest.mark.parametrize(
    "killed",
    [
        lambda run: (run / "summary.json").unlink(),
        lambda run: (run / "summary.json").write_text('{"epochs": 2'),
        lambda run: (run / "summary.json").write_text('{"epochs": 1}'),  # of the shorter run
        lambda run: (run / "summary.json").write_text("[]"),
        lambda run: (run / "margins.png").unlink(),
        lambda run: (run / "curves.png").write_bytes((run / "curves.png").read_bytes()[:100]),
        lambda run: (run / "curves.png").write_bytes((run / "curves.png").read_bytes()[:-13]),
        lambda run: (run / "diagnostics.png").write_bytes(b""),
        lambda run: [(run / name).unlink() for name in ("summary.json", "curves.png")],
    ],
)
def test_a_report_that_is_not_whole_is_repaired(run_dir, tmp_path, killed):
    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    killed(run)
    assert train("--resume", run, "--quiet") == 0
    assert (run / "summary.json").read_text() == (run_dir / "summary.json").read_text()
    for name in ("curves", "diagnostics", "margins"):
        with Image.open(run / f"{name}.png") as picture:
            picture.load()
    assert_same_run(run, run_dir)


@pytest.mark.parametrize(
    "lost", [[FOLDER], [FOLDER, METRICS_FILE]], ids=["checkpoints", "checkpoints and metrics"]
)
def test_a_run_killed_before_its_first_checkpoint_starts_when_resumed(
    run_dir, tmp_path, monkeypatch, lost
):
    run = tmp_path / "run"
    monkeypatch.setattr(checkpoints, "open_folder", lambda run_dir: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        start(run, *GROUPS)
    assert [path.name for path in run.iterdir()] == ["config.json"]
    monkeypatch.undo()
    if METRICS_FILE not in lost:
        write_rows(run / METRICS_FILE, [], METRICS)
    assert train("--resume", run, "--quiet") == 0
    assert_same_run(run, run_dir)


def without_copies(run):
    """As if the last checkpoint were of a version that kept no copies of files."""
    path = run / FOLDER / "1" / "_CHECKPOINT_METADATA"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"custom_metadata": {}}))


@pytest.mark.parametrize(
    "full",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        ValueError(f"RESOURCE_EXHAUSTED: Failed writing: {os.strerror(errno.ENOSPC)} [code 28]"),
    ],
)
def test_a_full_disk_is_told_and_the_run_continues_when_there_is_room(
    tmp_path, capfd, monkeypatch, full
):
    run = tmp_path / "run"

    def save(manager, epoch, **settings):
        (run / FOLDER / f"{epoch}.orbax-checkpoint-tmp").mkdir()
        raise full

    monkeypatch.setattr(ocp.CheckpointManager, "save", save)
    assert start(run, "--optimizer", "sgd", "--quiet", epochs=1) == 2
    assert capfd.readouterr().err == (
        f"error: The checkpoint of epoch 0 cannot be written to {run / FOLDER} (No space left on "
        "device); make room, and continue with --resume.\n"
    )
    monkeypatch.undo()
    assert train("--resume", run, "--quiet") == 0
    assert capfd.readouterr().err == ""


def strip(folder):
    (folder / "manifest.ocdbt").unlink()
    (folder / "_METADATA").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda d: (d / "metrics.csv").write_text("epoch\n"),
            "metrics.csv cannot be read: it lacks some of the 1 epochs trained. The checkpoint has "
            "no copy of its 1 rows; restore the file, or start a new run.",
        ),
        (lambda d: (d / "metrics.csv").unlink(), "metrics.csv cannot be read: No such file"),
        (
            lambda d: (d / "config.json").write_text(
                (d / "config.json").read_text().replace('"seed": 0', '"seed": 1')
            ),
            "config.json was edited after the run began; undo the edit, or start a new run",
        ),
        (lambda d: (d / FOLDER / "1").rename(d / "away"), "holds no whole checkpoint"),
        (lambda d: strip(d / FOLDER / "1" / "default"), "1 is damaged, or from another version"),
    ],
)
def test_a_damaged_run_folder_is_told(tmp_path, capsys, damage, said):
    run = tmp_path / "run"
    assert start(run, "--optimizer", "sgd", epochs=1) == 0
    without_copies(run)
    damage(run)
    capsys.readouterr()
    assert train("--resume", run, "--epochs", 2, "--quiet") == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_other_images_than_those_of_the_run_are_refused(tmp_path, capsys):
    generator = np.random.default_rng(0)
    archive = tmp_path / "a.npz"
    arrays = {
        "x_train": generator.integers(0, 256, (80, 9, 7, 3), np.uint8),
        "y_train": np.arange(80) % 4,
        "x_test": generator.integers(0, 256, (30, 9, 7, 3), np.uint8),
        "y_test": np.arange(30) % 4,
    }
    np.savez(archive, **arrays)
    run = tmp_path / "run"
    words = ["--data", "cifar10", "--data-dir", archive, "--optimizer", "rsgd", "--scheme", "PO"]
    assert train(*words, "--run-dir", run, "--epochs", 1, "--channels", 3, "--batch-size", 20) == 0
    arrays["x_train"][0, 0, 0, 0] ^= 1
    np.savez(archive, **arrays)
    capsys.readouterr()
    assert train("--resume", run, "--epochs", 2) == 2
    assert "was trained on other images" in capsys.readouterr().err


def test_plain_sgd_has_no_drift_and_no_manifolds(tmp_path, capsys):
    run = tmp_path / "run"
    assert start(run, "--optimizer", "sgd", epochs=1) == 0
    assert [row["drift"] for row in metrics(run)] == [""]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["drift"] is None
    assert summary["components"] == summary["groups"] == 0
    assert "drift from the manifolds" not in capsys.readouterr().out


@pytest.mark.parametrize("optimizer", ["riemannian-adam", "manifold-muon", "adam-h"])
def test_every_other_optimizer_trains_on_the_manifolds_and_resumes(tmp_path, optimizer):
    run = tmp_path / "run"
    words = ["--optimizer", optimizer, "--manifolds", "sp+ob", "--quiet"]
    assert start(run, *words, epochs=1) == 0
    assert train("--resume", run, "--epochs", 2, "--quiet") == 0
    assert json.loads((run / "config.json").read_text())["optimizer"] == optimizer
    rows = metrics(run)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])
    for row in rows:
        assert float(row["drift"]) < 1e-5
        assert float(row["angle"]) > 1e-3
        assert row["tau"] == ""  # no normalizer divides these steps


def test_a_loss_that_is_no_number_ends_the_run_in_one_line(tmp_path, capsys):
    words = "--optimizer sgd --learning-rate 1e30 --momentum 0 --quiet".split()
    assert start(tmp_path / "run", *words) == 2
    err = capsys.readouterr().err
    assert re.search(r"The loss is (nan|inf) in epoch 1; give a smaller --learning-rate", err)
    assert err.count("\n") == 1


def test_runs_without_a_name_get_folders_of_their_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "now")
    words = [*SMALL, "--optimizer", "sgd", "--epochs", "1", "--quiet"]
    assert train(*words) == 0
    assert train(*words) == 0
    out, err = capsys.readouterr()
    assert out.split() == ["runs/digits-sgd-now", "runs/digits-sgd-now-2"]
    assert err == ""


def test_training_shows_its_progress_and_ends_with_a_table(tmp_path, capsys):
    assert start(tmp_path / "run", *GROUPS, epochs=1) == 0
    out, err = capsys.readouterr()
    assert "epoch 1/1" in err
    assert re.search(r"loss \d\.\d+, error \d+\.\d+%", err)
    assert re.search(r"conv2/kernel +\(3, 3, 3, 4\) .*Sphere: 6, Stiefel: 6 +PIO: 2", out)
    for shown in ("train error", "test error", "drift", "time per step", "parameters", "groups"):
        assert shown in out
    assert str(tmp_path / "run") in out

"""The program's manners: one clear line and exit code 2 after a mistake, and help that helps."""

import os
import subprocess
import sys

import numpy as np
import pytest

import fgsgd_jax
from fgsgd_jax.__main__ import main
from fgsgd_jax.experiments.train import loop


def mistake(capsys, *argv):
    """Runs the program with a mistake in its arguments and returns the line it says."""
    assert main([str(word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            "trian",
            "'trian' is not a command; the commands are train, study, paths, bench. Did",
        ),
        (
            "compare --ablate scale",
            "'compare' is not a command; the commands are train, study, paths, bench. See",
        ),
        (
            "train --optimizer fgsdg",
            "--optimizer must be one of sgd, fgsgd, rsgd, riemannian-adam, manifold-muon, adam-h; "
            "got 'fgsdg'. Did you mean 'fgsgd'?",
        ),
        ("train --optimizer riemanian-adam", "Did you mean 'riemannian-adam'?"),
        (
            "train --optimizer manifold-muon --coordinates scaled",
            "--coordinates has no use with --optimizer manifold-muon",
        ),
        ("train --optimizer adam-h --coordinates 0.5", "no use with --optimizer adam-h"),
        ("train --optimizer adam-h --manifolds sp+euc", "A relative_step needs manifolds that fix"),
        ("train --optimiser sgd", "'--optimiser' is not an argument. Did you mean '--optimizer'?"),
        ("train --group 3", "'--group' is not an argument. Did you mean '--groups'?"),
        ("train digits", "'digits' is not an argument."),
        ("train --scheme POI", "Did you mean 'PO'?"),
        ("train --data mnits --data-dir x", "Did you mean 'mnist'?"),
        ("train --manifolds sphere+obligue", "Did you mean 'sphere+oblique'?"),
        (
            "train --manifolds sphere+",
            "--manifolds must be one name or several joined by +, out of sphere (sp), oblique "
            "(ob), stiefel (st), euclidean (euc); got 'sphere+'. See",
        ),
        ("train --manifolds stifel", "Did you mean 'stiefel'?"),
        ("train --epochs 0", "--epochs must be a whole number of at least 1; got '0'."),
        ("train --epochs 2.5", "--epochs must be a whole number of at least 1; got '2.5'. See"),
        ("train --epochs", "--epochs needs a value. See"),
        ("train --batch-size -5", "--batch-size must be a whole number of at least 1; got '-5'"),
        ("train --train-size -5", "--train-size must be a whole number of at least 1; got '-5'"),
        ("train --channels 4,8", "of at least 1; got '4,8'. Did you mean '4 8'?"),
        ("train --channels 8 0", "Every value of --channels must be a whole number of at least 1"),
        ("train --seed -1", "--seed must be a whole number of at least 0 and below 92"),
        ("train --seed 9223372036854775808", "a whole number of at least 0 and below 92233720368"),
        ("train --min-std 0", "--min-std must be a finite number above 0; got '0'."),
        ("train --learning-rate 1e400", "--learning-rate must be a finite number of at least 0"),
        ("train --scale geometri", "above 0 or one of none, geometric, literal; got"),
        (
            "study paper --sgd-decays 0 0.1",
            "Every value of --sgd-decays must be a finite number above 0; got '0'.",
        ),
        ("train --groups 0", "--groups must be a whole number of at least 1; got '0'."),
        (
            "train --learning-rate -0.1",
            "--learning-rate must be a finite number of at least 0; got '-0.1'.",
        ),
        ("train --learning-rate nan", "a finite number of at least 0; got 'nan'."),
        (
            "train --learning-rate fast",
            "--learning-rate must be a finite number of at least 0; got 'fast'.",
        ),
        (
            "train --weight-decay inf",
            "--weight-decay must be a finite number of at least 0; got",
        ),
        ("train --momentum 1", "must be a number of at least 0 and below 1; got '1'."),
        ("train --data mnist", "--data mnist needs --data-dir, the folder with its files."),
        ("train --data-dir x", "--data-dir has no use for digits"),
        ("train --optimizer sgd --scheme PI", "--scheme has no use with --optimizer sgd"),
        ("train --optimizer sgd --manifolds sp", "--manifolds has no use with --optimizer sgd"),
        ("train --optimizer sgd --euclidean-learning-rate 1", "--euclidean-learning-rate has no"),
        ("train --optimizer sgd --scale geometric", "--scale has no use with --optimizer sgd"),
        ("train --feature-batches 3", "--feature-batches re-scales the kernels"),
        ("train --scale geometric --feature-std kernel", "give --feature-batches 10"),
        ("train --scale geometric --min-std 1", "--min-std says how features re-scale"),
        ("train --scale geometrc", "Did you mean 'geometric'?"),
        (
            "train --coordinates -1",
            "--coordinates must be a finite number above 0 or one of unit, scaled; got '-1'.",
        ),
        ("train --lr 0.1", "'--lr' is not an argument. Did you mean '--learning-rate'?"),
        ("train --elr 0.1", "Did you mean '--euclidean-learning-rate'?"),
        ("train --bs 9", "Did you mean '--batch-size'?"),
        ("train --rate 1", "Did you mean '--learning-rate'?"),
        ("train --manifolds sphere,stifel", "Did you mean 'sphere+stiefel'?"),
        ("train --epochs 1 --epochs 2", "--epochs was given twice; give it once."),
        ("train --channels 8 --channels 9", "--channels was given twice; give it once."),
        ("train --channels", "--channels needs a value."),
        ("train --foo", "'--foo' is not an argument. See python -m fgsgd_jax train --help."),
        ("study", "NAME needs a value, one of batch-normalized, bounds, classical, convergence"),
        (
            "study --smoke",
            "NAME needs a value, one of batch-normalized, bounds, classical, convergence",
        ),
        (
            "study --delays 3",
            "NAME needs a value, one of batch-normalized, bounds, classical, convergence",
        ),
        ("study --foo", "'--foo' is not an argument. See"),
        ("study --foo 3 --seeds 2", "'--foo' is not an argument. See"),
        (
            "study scales --epochs 3",
            "--epochs is an option of the study paper, and scales does not",
        ),
        ("study depth --sgd-decays 1", "--sgd-decays is an option of the study paper, and depth"),
        ("study paper --delays 3", "--delays is an option of the study copying, and paper does"),
        ("study --epoch 3", "'--epoch' is not an argument. Did you mean '--epochs'?"),
        ("study --smok", "'--smok' is not an argument. Did you mean '--smoke'?"),
        (
            "study nope",
            "NAME must be one of batch-normalized, bounds, classical, convergence, coord",
        ),
        ("train --quiet=maybe", "--quiet takes no value; got 'maybe'."),
        ("study paper --depth 9", "--depth must be one of 8, 14, 20, …, 6n + 2; got '9'."),
        ("--verison", "error: '--verison' is not an argument. Did you mean '--version'? See"),
        ("--hepl", "error: '--hepl' is not an argument. Did you mean '--help'? See"),
        ("train --verison", "'--verison' is not an argument. Did you mean '--version'?"),
        ("study --hepl", "'--hepl' is not an argument. Did you mean '--help'?"),
        ("--trian", "error: '--trian' is not an argument. See python -m fgsgd_jax --help."),
        ("vrsion", "'vrsion' is not a command; the commands are train, study, paths, bench. See"),
        (
            "--epochs 3 train",
            "--epochs is an option of train, study, paths; give the command",
        ),
        ("study dept", "Did you mean 'depth'?"),
        ("study scale", "Did you mean 'scales'?"),
        ("study coordinate", "Did you mean 'coordinates'?"),
        ("study scales --data mnist", "--data mnist needs --data-dir"),
        ("train --scheme PI --groups 3", "--groups is for --scheme PIO"),
        ("train --resume x --run-dir y", "omit --run-dir"),
        ("train --resume x", "--resume x is not the folder of a run: no config.json."),
        ("train --data cifar10 --data-dir x", "x does not exist; give the folder with cifar10."),
        ("train --batch-size 2000", "--batch-size 2000 is more than the 1500 training images"),
        ("train --train-size 2000", "--train-size 2000 is more than the 1500 training images"),
        (
            "study scales --train-size 2000",
            "--train-size 2000 is more than the 1500 training images",
        ),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_2(capsys, argv, said):
    assert said in mistake(capsys, *argv.split())


@pytest.mark.slow
def test_more_groups_than_components_is_told_in_the_words_of_the_library(capsys, tmp_path):
    line = mistake(capsys, *"train --channels 3 4 --groups 4 --run-dir r".split())
    assert "conv1/kernel" in line
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("manifolds", ["euclidean", "sp+euc", "st,ob,euc"])
@pytest.mark.parametrize("option", [(), ("--scheme", "PIO", "--groups", "2")])
def test_manifolds_that_an_optimizer_cannot_use_are_refused_before_the_data_are_loaded(
    capsys, monkeypatch, manifolds, option
):
    from fgsgd_jax.experiments import data

    monkeypatch.setattr(data, "load", lambda *args, **kwargs: pytest.fail("the data were loaded"))
    line = mistake(capsys, *f"train --optimizer adam-h --manifolds {manifolds}".split(), *option)
    assert "A relative_step needs manifolds that fix the norm" in line


def test_a_damaged_data_file_is_told(capsys, tmp_path):
    np.savez(tmp_path / "a.npz", pictures=np.zeros(3))
    line = mistake(capsys, "train", "--data", "fashion", "--data-dir", tmp_path)
    assert "a.npz lacks x_train, y_train, x_test, y_test (it has pictures)" in line


def test_a_run_folder_in_use_is_not_touched(capsys, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    line = mistake(capsys, "train", "--run-dir", "mine")
    assert "mine exists" in line
    assert "--resume mine" in line
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_run_folder_that_cannot_be_made_is_told(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    words = "train --optimizer sgd --train-size 100 --channels 2 --run-dir file/run"
    assert "file/run cannot be made" in mistake(capsys, *words.split())


def test_a_missing_package_of_the_extra_is_told_with_the_way_to_get_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    line = mistake(capsys, "train", "--optimizer", "sgd")
    assert "sklearn" in line
    assert 'pip install "fgsgd_jax[train]"' in line


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    from fgsgd_jax.experiments import data

    def broken(*args, **kwargs):
        raise ValueError("a bug")

    monkeypatch.setattr(data, "load", broken)
    with pytest.raises(ValueError, match="a bug"):
        main(["train"])


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_the_overview_names_every_command(capsys, argv):
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "train " in out
    assert "bench " in out


def test_help_shows_every_argument_with_its_default(capsys):
    assert main(["train", "--help"]) == 0
    help = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for group in ("Data", "Method", "Run"):
        assert f"─ {group} ─" in help
    for shown in ("--channels", "[default: 32 64 64]", "[default: sphere+oblique+stiefel]"):
        assert shown in help


@pytest.mark.slow
def test_a_terminal_of_ascii_only_shows_the_help():
    command = [sys.executable, "-m", "fgsgd_jax", "train", "--help"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "the 3?3 convolutions" in ended.stdout


@pytest.mark.slow
def test_output_that_nobody_reads_ends_the_program_without_a_traceback():
    code = "from fgsgd_jax.experiments import cli; cli.exit_after(lambda: print('x') or 0)"
    command = [sys.executable, "-c", code]
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.slow
def test_help_does_not_wait_for_flax():
    """In a process of its own: here, other tests have imported it."""
    code = (
        "import sys; from fgsgd_jax.__main__ import main\n"
        "main(['train', '--help'])\n"
        "print(sorted({'flax', 'matplotlib', 'orbax', 'sklearn'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("word", ["sphere,stiefel", "sphere+stiefel", "SP, st"])
def test_manifolds_are_joined_by_a_plus_or_a_comma(monkeypatch, word):
    seen = []
    monkeypatch.setattr(loop, "run", lambda config, *args, **kwargs: seen.append(config))
    assert main(["train", "--manifolds", word]) == 0
    assert seen[0].manifolds == ("sphere", "stiefel")
    assert seen[0].learning_rate == 1.0


@pytest.mark.parametrize("argv", [["--version"], ["train", "--version"]])
def test_the_version_is_that_of_the_library(capsys, argv):
    assert main(argv) == 0
    assert capsys.readouterr().out == f"fgsgd_jax {fgsgd_jax.__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize("argv", [[], ["train"], ["bench", "--help"]])
def test_without_the_library_of_the_command_line_one_sentence_says_what_to_install(argv):
    """In a process of its own: here, the commands are imported already."""
    code = (
        "import sys; sys.modules['cyclopts'] = None\n"
        "from fgsgd_jax.__main__ import main\n"
        f"sys.exit(main({argv}))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == 'error: cyclopts is not installed: pip install "fgsgd_jax[train]"\n'

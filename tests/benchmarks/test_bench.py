"""The command `bench`: it runs, says what it measured, and tells mistakes. No figure is judged."""

import json

import jax
import pytest

from fgsgd_jax.__main__ import main
from fgsgd_jax.experiments import bench


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_small_run_prints_a_table_and_writes_json(capsys, tmp_path):
    words = (
        "bench --sections updates --width 0.0625 --rounds 2 --manifolds sp+ob --schemes PO PIO "
        "--json b.json"
    )
    assert main(words.split()) == 0
    out = capsys.readouterr().out
    for told in (jax.devices()[0].device_kind, jax.__version__, "sphere+oblique", "fgsgd PIO"):
        assert told in out
    content = json.loads((tmp_path / "b.json").read_text())
    # A 256th of the weights of all 3×3 kernels of a ResNet-18.
    assert content["weights"] == 9 * content["components"] == 10_985_472 // 256
    assert (content["kernels"], content["width"], content["rounds"]) == (16, 0.0625, 2)
    rows = content["contestants"]
    limits = {(row["optimizer"], row["momentum"]): row["limit"] for row in rows}
    assert limits == {
        ("optax.sgd", 0.9): 1.0,
        ("optax.sgd", None): 0.6,
        ("optax.adamw", None): 1.4,
        ("fgsgd", None): 1.0,
        ("fgsgd", 0.9): 1.4,
    }
    ran = [(row["scheme"], row["momentum"]) for row in rows if row["optimizer"] == "fgsgd"]
    assert ran == [("PO", None), ("PIO", None), ("PO", 0.9)]
    assert rows[-1]["manifolds"] == ["sphere", "oblique"]
    for row in rows:
        low, high = row["ratio_quartiles"]
        assert 0 < low <= high
        assert row["ratio"] == row["seconds"] / row["yardstick_seconds"]
        assert min(row["trace_seconds"], row["compile_seconds"]) > 0
        assert row["memory"] >= 0
    assert {row["ratio"] for row in rows if row["label"] == bench.YARDSTICK.label} == {1.0}


@pytest.mark.parametrize(
    ("momentum", "schemes", "with_momentum"),
    [
        ("none", ["PI", "PO"], []),
        ("one", ["PI", "PO"], ["PO"]),
        ("one", ["PIO", "PI"], ["PIO"]),
        ("all", ["PI", "PO", "PI"], ["PI", "PO"]),
    ],
)
def test_momentum_is_for_none_one_or_all_of_the_schemes(momentum, schemes, with_momentum):
    block = bench.contestants([("sphere",)], schemes, momentum)["sphere"]
    assert [entry.scheme for entry in block if entry.momentum] == with_momentum
    assert [entry.scheme for entry in block if not entry.momentum] == list(dict.fromkeys(schemes))


def test_an_update_takes_over_the_memory_of_weights_and_state():
    shapes = {"conv": (3, 3, 4, 8)}
    params, gradient = dict(bench._normal(shapes, 0)), dict(bench._normal(shapes, 1))
    (contestant,) = bench.contestants([("sphere", "oblique")], ["PIO"], "none")["sphere+oblique"]
    runner = bench.Runner(contestant, params, gradient)
    before = jax.tree.leaves(runner.donated)
    runner.run()
    assert all(array.is_deleted() for array in before)
    assert not any(array.is_deleted() for array in jax.tree.leaves((params, gradient)))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--width 0", "--width: '0' was given, a number of at least 0.015625 is needed."),
        ("--rounds 0", "--rounds: '0' was given, a whole number of at least 1 is needed."),
        ("--manifolds sphere stifel", "Did you mean 'stiefel'?"),
        ("--schemes PI POI", "Did you mean 'PO'?"),
        ("--momentum 0.9", "--momentum: '0.9' was given, one of none, one, all is needed."),
        ("--round 3", "'--round' is not an argument. Did you mean '--rounds'?"),
        ("--json missing/b.json", "--json missing/b.json is not a file in a folder that exists."),
        ("--json .", "--json . is not a file in a folder that exists."),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_2(capsys, argv, said):
    assert main(["bench", *argv.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_help_shows_every_argument_with_its_default(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["bench", "--help"])
    assert leaving.value.code == 0
    help = " ".join(capsys.readouterr().out.split())
    for shown in ("(default: PI PO PIO)", "(default: sphere oblique stiefel sphere+oblique"):
        assert shown in help

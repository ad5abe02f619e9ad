"""The benchmark program: it runs, says what it measured, reports mistakes. No time is judged."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from fgsgd_jax.experiments import models
from fgsgd_jax.experiments.bench import formatting

from . import (
    accuracy,
    compilation,
    growth,
    matrices,
    path_sgd,
    processes,
    resnet20,
    results,
    settings,
    share,
)
from .__main__ import main
from .settings import BenchmarkSettings

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def printed(capsys, section, content):
    """What the tables of a section show of what it measured, after a way through JSON."""
    import rich.console

    told = section.tables(json.loads(json.dumps(formatting.jsonable(content), allow_nan=False)))
    console = rich.console.Console(width=100, highlight=False)
    for table in told:
        console.print(table)
    return capsys.readouterr().out


# --- what is measured ----------------------------------------------------------------------------


def test_a_resnet_20_has_as_many_weights_as_the_published_one():
    def made():
        return nnx.state(resnet20.ResNet20(10, rngs=nnx.Rngs(0)), nnx.Param)

    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.eval_shape(made))) == 269_722


def test_a_landing_step_is_the_published_formula():
    x, g = np.random.default_rng(0).standard_normal((2, 5, 3))
    whole = g @ x.T
    expected = x - matrices.RATE * (
        (whole - whole.T) / 2 @ x + matrices.PENALTY * x @ (x.T @ x - np.eye(3))
    )
    with jax.enable_x64(True):
        moved = matrices.landing(jax.numpy.asarray(x), jax.numpy.asarray(g))
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-15)


def test_an_exponent_is_fitted_beyond_the_cache():
    numbers = [10, 100, 1000, 2000, 5000]
    # Steps of 1.25 in the exponent, and a plateau before them.
    rows = [{"name": "a", "components": n, "seconds": 3e-6 * max(n, 1000) ** 1.25} for n in numbers]
    assert growth._exponent(rows, "a", 1000) == pytest.approx(1.25)
    assert growth._exponent(rows, "a", 10) < 1
    assert growth._exponent(rows, "a", 2000) is None


def test_what_hangs_is_ended_and_has_no_time(monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE", 0.0)
    with processes.Process("lapack_steps", threads=1, kind="qr", shape=(2, 3, 3)) as process:
        assert "hung" in process.answer["error"]
        assert process.answer["steps"] == []
        assert math.isnan(process.clock("qr")(1))
        assert process._process.poll() is not None


# --- runs ----------------------------------------------------------------------------------------


def test_verbs_and_growth_are_measured_and_drawn(capsys, tmp_path):
    words = "--sections verbs growth --components 2 --rounds 2 --figure g.png --json b.json"
    assert main(words.split()) == 0
    out = capsys.readouterr().out
    assert "…" not in out
    content = json.loads((tmp_path / "b.json").read_text())
    verbs = [(row["block"], row["manifold"], row["components"]) for row in content["verbs"]]
    blocks = (("by size", 2), ("by number", 1))
    kinds = ("sphere", "oblique", "stiefel")
    assert verbs == [(block, kind, number) for block, number in blocks for kind in kinds]
    for row in content["verbs"]:
        for verb in ("to_tangent", "retract", "residual"):
            assert row[verb]["ratio"] == row[verb]["seconds"] / row["pass_seconds"]
    sizes = [(row["name"], row["components"]) for row in content["growth"]["rows"]]
    assert sorted(sizes) == sorted((name, number) for name in growth.COLORS for number in (1, 2))
    assert set(content["growth"]["exponents"].values()) == {None}
    assert out.count("too few sizes beyond the cache") == 3
    assert (tmp_path / "g.png").read_bytes()[:4] == b"\x89PNG"


def test_accuracy_is_that_of_float32_and_a_wrong_routine_is_seen(capsys, monkeypatch):
    settings = BenchmarkSettings(components=5)
    content = accuracy.measure(settings)
    errors = {row["routine"]: row["error"] for row in content}
    assert len(errors) == len(content) > 20
    assert all(0 < error < 3e-6 for error in errors.values()), errors
    assert {row["size"] for row in content} == {"3×3"}  # larger ones have more than 45 entries
    out = printed(capsys, accuracy, content)
    assert all(routine in out for routine in errors)

    case = next(case for case in accuracy._cases((3, 3, 5)) if case[0] == "stiefel to_tangent")
    wrong = (*case[:2], lambda x, g: g - 1.001 * x, *case[3:])
    monkeypatch.setattr(accuracy, "_cases", lambda shape: [wrong])
    (row,) = accuracy.measure(settings)
    assert row["error"] > 1e-2


def test_large_matrices_are_measured_and_stay_orthonormal(capsys, monkeypatch):
    monkeypatch.setattr(matrices, "_threads", lambda: [1])  # one more process tells nothing new
    size = (36, 4, 2)  # large enough for matrix products
    name = {"rows": 36, "columns": 4, "matrices": 2}
    retractions, steps = matrices._retractions(size, 2), matrices._steps(size, 2)
    drift = matrices._drift((36, 4), 30)
    assert drift["steps"] == 30
    assert 0 < drift["error"] < 1e-5
    labels = [row["label"] for row in retractions]
    assert labels[0] == "polar retraction of Stiefel()"
    assert labels[1:] == ["jnp.linalg.qr, 1 BLAS thread"]
    assert all(row["seconds"] > 0 for row in (*retractions, *steps))
    both = [(row["block"], row["label"]) for row in steps]
    assert both[:5] == [("separate", label) for _, label in both[5:]]
    content = {
        "retractions": [{**name, **row} for row in retractions],
        "steps": [{**name, **row} for row in steps],
        "drift": [{**name, **drift}],
    }
    out = printed(capsys, matrices, content)
    for told in ("2 × 36×4, stacked", "landing", "optax.contrib.muon", f"{drift['error']:.1e}"):
        assert told in out


def test_the_share_of_a_step_is_measured(capsys, monkeypatch):
    def small(classes, *, width, rngs):
        return models.CNN((4,), (32, 32, 3), classes, rngs=rngs)

    monkeypatch.setattr(resnet20, "ResNet20", small)
    content = share.measure(BenchmarkSettings(manifolds=(("sphere",),), width=1 / 64, rounds=2))
    rows = content["rows"]
    assert [row["label"] for row in rows] == [
        "optax.sgd, momentum 0.9",
        "fgsgd PO, sphere",
        "fgsgd PO, sphere, momentum 0.9",
    ]
    for row in rows:
        assert row["share"] == row["update_seconds"] / row["step_seconds"]
    features = content["features"]
    assert features["share"] > 0
    out = printed(capsys, share, content)
    assert f"{rows[1]['share']:.2%}" in out
    assert f"{features['share']:.2%} of an epoch of 25,000 steps" in out


def test_compilation_is_measured(capsys):
    cases = list(compilation.cases_of(BenchmarkSettings()))
    groups = [label for block, label, _, _ in cases if block.endswith("PIO")]
    assert groups == ["fgsgd PIO, sphere, 4 groups", "fgsgd PIO, sphere, 4,096 groups"]
    assert {len(shapes) for block, _, shapes, _ in cases if "480" in block} == {480}
    shapes = {"kernel": (3, 3, 2, 2)}
    few = [("a block", label, shapes, optimizer) for _, label, _, optimizer in cases[:2]]
    first, second = compilation.measure_cases(few, 1)
    assert (first["trace_ratio"], first["compile_ratio"]) == (1.0, 1.0)
    assert second["trace_ratio"] == second["trace_seconds"] / first["trace_seconds"]
    # The instructions of AdamW on one weight and of FG-SGD are not the same program.
    assert 0 < first["instructions"] != second["instructions"] > 0
    assert "fgsgd PO, sphere" in printed(capsys, compilation, [first, second])


def test_peers_that_are_not_installed_are_told_with_the_way_to_get_them(capsys, tmp_path):
    assert main("--sections peers --components 9 --rounds 2 --json b.json".split()) == 0
    out = capsys.readouterr().out
    content = json.loads((tmp_path / "b.json").read_text())["peers"]
    installed = {
        name for name in ("geoopt", "geotorch", "pymanopt") if importlib.util.find_spec(name)
    }
    assert set(content["missing"]) == {"geoopt", "geotorch", "pymanopt"} - installed
    assert ("--peer-python DIR/bin/python" in " ".join(out.split())) == bool(content["missing"])
    rows = {(row["problem"], row["step"]): row["seconds"] for row in content["rows"]}
    for problem, step in (
        ("sphere", "fgsgd PO"),
        ("stiefel", "fgsgd PO"),
        ("stiefel", "optax.contrib.muon, 3×3 by 3×3"),
        ("stiefel", "jnp.linalg.svd, not jitted"),
    ):
        assert rows[problem, step] > 0


def test_path_sgd_is_measured(capsys):
    row = path_sgd.measure_one("dense 784-512-512-10", 2, batch_size=3)
    assert row["ratio"] == row["path_sgd_seconds"] / row["sgd_seconds"]
    out = printed(capsys, path_sgd, [row])
    assert "batch 3" in out
    assert "dense 784-512-512-10" in out


def test_results_replace_their_own_section_only(capsys, tmp_path):
    path = tmp_path / "r.md"
    words = "--components 1 --rounds 1 --results r.md --sections"
    assert main([*words.split(), "accuracy"]) == 0
    first = results.read(path.read_text())
    assert main([*words.split(), "growth"]) == 0
    both = results.read(path.read_text())
    # In the order of the program, not of the runs; a block is what the program printed.
    assert list(both) == ["accuracy", "growth"]
    assert both["accuracy"] == first["accuracy"]
    lines = both["growth"].splitlines()
    assert lines[:2] == [
        "```text",
        "$ python -m tests.benchmarks --components 1 --rounds 1 --results r.md --sections growth",
    ]
    assert jax.__version__ in lines[2]
    out = capsys.readouterr().out
    assert all(line in out for line in lines[2:-1])
    path.write_bytes(b"\xff")
    assert main([*words.split(), "growth"]) == 2
    assert "r.md cannot be read" in capsys.readouterr().err


def test_the_program_starts_in_a_clone_and_measures_updates_as_the_command_does():
    """In a process of its own, as a user starts it; here the package has another name."""
    words = "--sections updates --width 0.02 --rounds 1 --manifolds sp --schemes PO"
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *words.split()],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "fgsgd PO, momentum 0.9" in done.stdout


# --- manners -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--sections update", "Did you mean 'updates'?"),
        ("--networks resnet", "Did you mean 'resnet50'?"),
        ("--width 0", "--width must be a finite number of at least 0.015625; got '0'."),
        ("--rounds 0", "--rounds must be a whole number of at least 1; got '0'."),
        ("--components 0", "--components must be a whole number of at least 1; got '0'."),
        ("--manifolds sphere stifel", "Did you mean 'stiefel'?"),
        ("--schemes PI POI", "Did you mean 'PO'?"),
        ("--momentum 0.9", "--momentum must be one of none, one, all; got '0.9'."),
        ("--round 3", "'--round' is not an argument. Did you mean '--rounds'?"),
        ("--json missing/b.json", "--json missing/b.json is not a file in a folder that exists."),
        ("--results missing/r.md", "--results missing/r.md is not a file in a folder that exists."),
        ("--json .", "--json . is not a file in a folder that exists."),
        ("--figure x/g.png", "--figure x/g.png is not a file in a folder that exists."),
        ("--figure g.doc", "--figure g.doc is none of .png, .pdf, .svg."),
        ("--figure g.png --sections accuracy", "--figure g.png is drawn by growth; name it in"),
        ("--peer-python nowhere", "--peer-python nowhere is not a program that can be run."),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_2(capsys, argv, said):
    assert main(argv.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_help_names_every_section_and_default(capsys):
    assert main(["--help"]) == 0
    help = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for shown in ("[default: PI PO PIO]", "[default: 10000000]", "[default: 1000]"):
        assert shown in help
    for section in settings.SECTIONS:
        assert f"• {section}: " in help

"""The command `bench`: it runs, says what it measured, and tells mistakes. No time is judged."""

import importlib.util
import json
import math

import jax
import numpy as np
import pytest
from flax import nnx

from fgsgd_jax.__main__ import main
from fgsgd_jax.experiments import models
from fgsgd_jax.experiments.bench import (
    _processes,
    _timing,
    accuracy,
    compilation,
    growth,
    matrices,
    networks,
    paths,
    report,
    share,
    updates,
)
from fgsgd_jax.experiments.bench._settings import Settings, normal, placed

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def printed(capsys, section, content):
    """What the tables of a section show of what it measured, after a way through JSON."""
    import rich.console

    told = section.tables(json.loads(json.dumps(report.jsonable(content), allow_nan=False)))
    console = rich.console.Console(width=100, highlight=False)
    for table in told:
        console.print(table)
    return capsys.readouterr().out


# --- how time is taken ---------------------------------------------------------------------------


def test_contestants_are_timed_in_turn_once_a_round():
    calls = []

    def scripted(name, seconds):
        def time_of_one(repeats):
            calls.append((name, repeats))
            return seconds

        return time_of_one

    times = {"slow": 0.5, "fast": 1e-3, "faster": 1e-9, "failed": math.nan}
    taken = _timing.in_turn({name: scripted(name, time) for name, time in times.items()}, 6)
    warm, timed = calls[:8], calls[8:]
    assert warm == [(name, 1) for name in times for _ in range(2)]
    # Two runs of 1 ms last the 2 ms asked for; a failed one is not asked for more.
    repeats = {"slow": 1, "fast": 2, "faster": _timing.MOST_REPEATS, "failed": 1}
    rounds = [timed[start : start + 4] for start in range(0, 24, 4)]
    assert len(timed) == 24
    assert all(sorted(one) == sorted(repeats.items()) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1
    assert taken["slow"].tolist() == [0.5] * 6
    assert np.isnan(taken["failed"]).all()


def test_what_would_take_minutes_is_timed_in_the_first_rounds_only():
    calls = []
    clocks = {"ours": lambda repeats: 0.5, "endless": lambda repeats: calls.append(1) or 20.0}
    taken = _timing.in_turn(clocks, 7)
    assert len(calls) == 2 + 3  # to warm up, and in rounds
    assert [len(taken[name]) for name in clocks] == [7, 3]
    assert _timing.ratio_of(taken["endless"], taken["ours"]).ratio == 40


def test_a_ratio_counts_only_rounds_of_both():
    assert _timing.ratio_of(np.array([2.0, 2.0]), np.array([1.0, 1.0, 9.0, 9.0])) == (2, 2, 2)


def test_a_ratio_is_of_medians_and_its_spread_of_rounds():
    seconds, yardstick = np.array([2.0, 4.0, 9.0]), np.array([1.0, 1.0, 3.0])
    # Medians 4 and 1; the rounds have 2, 4 and 3, of which 2.5 and 3.5 are the quartiles.
    assert _timing.ratio_of(seconds, yardstick) == (4.0, 2.5, 3.5)


def test_an_update_takes_over_the_memory_of_weights_and_state():
    params, gradient = (normal({"conv/kernel": (3, 3, 4, 8)}, seed) for seed in (0, 1))
    block = updates.contestants([("sphere", "oblique")], ["PIO"], "none")["sphere+oblique"]
    step = block[0].step(params, gradient)
    before = jax.tree.leaves(step.carried)
    step()
    assert all(array.is_deleted() for array in before)
    assert not any(array.is_deleted() for array in jax.tree.leaves((params, gradient)))
    temporary, anew = step.memory()
    assert temporary >= 0
    assert anew == 0

    # A result of another shape cannot take over the memory of what was given.
    def longer(x, y):
        return (jax.numpy.concatenate([x, y]),)

    with pytest.warns(UserWarning, match="donated buffers were not usable"):
        step = _timing.Fed(longer, (np.ones(1000),), np.ones(7))
    assert step.memory()[1] == 4 * 1007


def test_what_hangs_is_ended_and_has_no_time(monkeypatch):
    monkeypatch.setattr(_processes, "PATIENCE", 0.0)
    with _processes.Process("lapack_steps", threads=1, kind="qr", shape=(2, 3, 3)) as process:
        assert "hung" in process.told["error"]
        assert process.told["steps"] == []
        assert math.isnan(process.clock("qr")(1))
        assert process._process.poll() is not None


def test_what_has_no_number_is_a_dash_in_the_table_and_null_in_the_json():
    row = {"seconds": math.nan, "ratio_quartiles": [math.nan, math.nan]}
    assert report.jsonable(row) == {"seconds": None, "ratio_quartiles": [None, None]}
    assert report.duration(None) == report.short(math.nan) == report.spread(None, None) == "—"
    shown = [report.duration(seconds) for seconds in (2.5, 0.0123, 4e-6)]
    assert shown == ["2.50 s", "12.3 ms", "4.00 µs"]


# --- what is measured ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "weights"),
    [
        # As counted by torchvision, timm, and the authors of wide residual networks (36.5 M).
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("vit-s", 22_050_664),
        ("wrn-28-10", 36_479_194),
        # 4·9·(64² + 64·128/4 + …): all but the first convolution, the shortcuts and the rest.
        ("resnet18-3x3", 10_985_472),
    ],
)
def test_networks_have_as_many_weights_as_the_published_ones(network, weights):
    shapes = networks.shapes_of(network)
    assert sum(map(math.prod, shapes.values())) == weights


def test_a_resnet_20_has_as_many_weights_as_the_published_one():
    def made():
        return nnx.state(models.ResNet20(10, rngs=nnx.Rngs(0)), nnx.Param)

    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.eval_shape(made))) == 269_722


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
    block = updates.contestants([("sphere",)], schemes, momentum)["sphere"]
    assert [entry.scheme for entry in block if entry.momentum] == with_momentum
    assert [entry.scheme for entry in block if not entry.momentum] == list(dict.fromkeys(schemes))


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


# --- runs ----------------------------------------------------------------------------------------


def test_a_small_run_prints_a_table_and_writes_json(capsys, tmp_path):
    words = (
        "bench --sections updates --networks resnet18-3x3 resnet18-3x3 --width 0.0625 --rounds 2 "
        "--manifolds sp --schemes PIO --json b.json"
    )
    assert main(words.split()) == 0
    out = capsys.readouterr().out
    for told in (jax.devices()[0].device_kind, jax.__version__, "sphere", "fgsgd PIO"):
        assert told in out
    assert "…" not in out  # nothing is cut off where it is not a terminal
    content = json.loads((tmp_path / "b.json").read_text())
    assert (content["settings"]["width"], content["settings"]["rounds"]) == (0.0625, 2)
    (network,) = content["updates"]
    # A 256th of the weights of all 3×3 kernels of a ResNet-18.
    assert network["weights"] == network["kernel_weights"] == 10_985_472 // 256
    assert network["kernels"] == network["leaves"] == 16
    rows = network["contestants"]
    limits = {(row["optimizer"], row["momentum"]): row["limit"] for row in rows}
    assert limits == {
        ("optax.sgd", 0.9): 1.0,
        ("optax.sgd", None): 0.6,
        ("optax.adamw", None): 1.4,
        ("fgsgd", None): 1.0,
        ("fgsgd", 0.9): 1.4,
    }
    ran = [(row["scheme"], row["momentum"]) for row in rows if row["optimizer"] == "fgsgd"]
    assert ran == [("PIO", None), ("PIO", 0.9)]
    assert rows[-1]["manifolds"] == ["sphere"]
    for row in rows:
        low, high = row["ratio_quartiles"]
        assert 0 < low <= high
        assert row["ratio"] == row["seconds"] / row["sgd_seconds"]
        assert row["ratio_to_adamw"] == row["seconds"] / row["adamw_seconds"]
        assert min(row["trace_seconds"], row["compile_seconds"]) > 0
        assert row["temporary_bytes"] >= 0
        assert row["bytes_not_taken_over"] == 0
    assert {row["ratio"] for row in rows if row["label"] == updates.SGD.label} == {1.0}
    assert {row["ratio_to_adamw"] for row in rows if row["label"] == updates.ADAMW.label} == {1.0}


def test_a_whole_network_has_its_kernels_on_manifolds_and_its_other_leaves_beside_them():
    shapes = {"a/kernel": (3, 3, 2, 4), "b/kernel": (8, 6), "a/bias": (4,), "head/kernel": (6, 9)}
    params = normal(shapes, 0)
    (contestant,) = updates.contestants([("stiefel",)], ["PO"], "none")["stiefel"]
    tx, start = contestant.prepare(params)
    tx.init(start)  # refuses weights that are not on their manifolds
    for name, size in (("a/kernel", 3), ("b/kernel", 6)):
        gram = np.einsum("ij...,ik...->jk...", start[name], start[name])
        np.testing.assert_allclose(gram.T, np.broadcast_to(np.eye(size), gram.T.shape), atol=1e-6)
    for name in ("a/bias", "head/kernel"):
        assert start[name] is params[name]


def test_a_kernel_by_itself_is_on_its_manifold():
    spec, _ = placed(normal({"kernel": (3, 3, 2, 4)}, 0), "PO", ("sphere",))
    assert spec["kernel"] is not None
    with pytest.raises(ValueError, match="nothing would be measured"):
        placed(normal({"bias": (4,)}, 0), "PO", ("sphere",))


def test_verbs_and_growth_are_measured_and_drawn(capsys, tmp_path):
    words = "bench --sections verbs growth --components 2 --rounds 2 --figure g.png --json b.json"
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
    settings = Settings(components=5)
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

    monkeypatch.setattr(models, "ResNet20", small)
    content = share.measure(Settings(manifolds=(("sphere",),), width=1 / 64, rounds=2))
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
    cases = list(compilation.cases_of(Settings()))
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
    assert main("bench --sections peers --components 9 --rounds 2 --json b.json".split()) == 0
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
    row = paths.measure_one("dense 784-512-512-10", 2, batch_size=3)
    assert row["ratio"] == row["path_sgd_seconds"] / row["sgd_seconds"]
    out = printed(capsys, paths, [row])
    assert "batch 3" in out
    assert "dense 784-512-512-10" in out


# --- manners -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--sections update", "Did you mean 'updates'?"),
        ("--networks resnet", "Did you mean 'resnet50'?"),
        ("--width 0", "--width: '0' was given, a number of at least 0.015625 is needed."),
        ("--rounds 0", "--rounds: '0' was given, a whole number of at least 1 is needed."),
        ("--components 0", "--components: '0' was given, a whole number of at least 1 is needed."),
        ("--manifolds sphere stifel", "Did you mean 'stiefel'?"),
        ("--schemes PI POI", "Did you mean 'PO'?"),
        ("--momentum 0.9", "--momentum: '0.9' was given, one of none, one, all is needed."),
        ("--round 3", "'--round' is not an argument. Did you mean '--rounds'?"),
        ("--json missing/b.json", "--json missing/b.json is not a file in a folder that exists."),
        ("--json .", "--json . is not a file in a folder that exists."),
        ("--figure x/g.png", "--figure x/g.png is not a file in a folder that exists."),
        ("--figure g.doc", "--figure g.doc is none of .png, .pdf, .svg."),
        ("--figure g.png --sections accuracy", "--figure g.png is drawn by growth; name it in"),
        ("--peer-python nowhere", "--peer-python nowhere is not a program that can be run."),
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
    for shown in (
        "(default: PI PO PIO)",
        "(default: sphere oblique stiefel sphere+oblique",
        "(default: resnet18-3x3)",
        "(default: 11)",
    ):
        assert shown in help

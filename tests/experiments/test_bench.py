"""The command `bench`: it runs, says what it measured, and reports mistakes. No time is judged."""

import json
import math

import jax
import numpy as np
import pytest

from fgsgd_jax.__main__ import main
from fgsgd_jax.experiments.bench import formatting, networks, timing, updates
from fgsgd_jax.experiments.bench.weights import normal, on_manifolds


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# --- how time is taken ---------------------------------------------------------------------------


def test_contestants_are_timed_in_turn_once_a_round():
    calls = []

    def scripted(name, seconds):
        def time_of_one(repeats):
            calls.append((name, repeats))
            return seconds

        return time_of_one

    times = {"slow": 0.5, "fast": 1e-3, "faster": 1e-9, "failed": math.nan}
    taken = timing.in_turn({name: scripted(name, time) for name, time in times.items()}, 6)
    warm, timed = calls[:8], calls[8:]
    assert warm == [(name, 1) for name in times for _ in range(2)]
    # Two runs of 1 ms last the 2 ms asked for; a failed one is not asked for more.
    repeats = {"slow": 1, "fast": 2, "faster": timing.MOST_REPEATS, "failed": 1}
    rounds = [timed[start : start + 4] for start in range(0, 24, 4)]
    assert len(timed) == 24
    assert all(sorted(one) == sorted(repeats.items()) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1
    assert taken["slow"].tolist() == [0.5] * 6
    assert np.isnan(taken["failed"]).all()


def test_what_would_take_minutes_is_timed_in_the_first_rounds_only():
    calls = []
    clocks = {"ours": lambda repeats: 0.5, "endless": lambda repeats: calls.append(1) or 20.0}
    taken = timing.in_turn(clocks, 7)
    assert len(calls) == 2 + 3  # to warm up, and in rounds
    assert [len(taken[name]) for name in clocks] == [7, 3]
    assert timing.ratio_of(taken["endless"], taken["ours"]).ratio == 40


def test_a_ratio_counts_only_rounds_of_both():
    assert timing.ratio_of(np.array([2.0, 2.0]), np.array([1.0, 1.0, 9.0, 9.0])) == (2, 2, 2)


def test_a_ratio_is_of_medians_and_its_spread_of_rounds():
    seconds, yardstick = np.array([2.0, 4.0, 9.0]), np.array([1.0, 1.0, 3.0])
    # Medians 4 and 1; the rounds have 2, 4 and 3, of which 2.5 and 3.5 are the quartiles.
    assert timing.ratio_of(seconds, yardstick) == (4.0, 2.5, 3.5)


@pytest.mark.slow
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
        step = timing.Iterated(longer, (np.ones(1000),), np.ones(7))
    assert step.memory()[1] == 4 * 1007


def test_what_has_no_number_is_a_dash_in_the_table_and_null_in_the_json():
    row = {"seconds": math.nan, "ratio_quartiles": [math.nan, math.nan]}
    assert formatting.jsonable(row) == {"seconds": None, "ratio_quartiles": [None, None]}
    assert (
        formatting.duration(None)
        == formatting.short(math.nan)
        == formatting.spread(None, None)
        == "—"
    )
    shown = [formatting.duration(seconds) for seconds in (2.5, 0.0123, 4e-6)]
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


# --- runs ----------------------------------------------------------------------------------------


@pytest.mark.slow
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


@pytest.mark.slow
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
    spec, _ = on_manifolds(normal({"kernel": (3, 3, 2, 4)}, 0), "PO", ("sphere",))
    assert spec["kernel"] is not None
    with pytest.raises(ValueError, match="nothing would be measured"):
        on_manifolds(normal({"bias": (4,)}, 0), "PO", ("sphere",))


# --- manners -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--sections update", "Did you mean 'updates'?"),
        ("--sections peers", "run python -m tests.benchmarks --sections peers."),
        ("--components 5", "'--components' is not an argument."),
        ("--networks resnet", "Did you mean 'resnet50'?"),
        ("--width 0", "--width must be a finite number of at least 0.015625; got '0'."),
        ("--rounds 0", "--rounds must be a whole number of at least 1; got '0'."),
        ("--manifolds sphere stifel", "Did you mean 'stiefel'?"),
        ("--schemes PI POI", "Did you mean 'PO'?"),
        ("--momentum 0.9", "--momentum must be one of none, one, all; got '0.9'."),
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
    assert main(["bench", "--help"]) == 0
    help = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for shown in (
        "[default: PI PO PIO]",
        "[default: sphere oblique stiefel sphere+oblique",
        "[default: resnet18-3x3]",
        "[default: 11]",
    ):
        assert shown in help

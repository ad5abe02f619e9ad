"""Studies: the grid, its file, the table; and every study at a small size."""

import contextlib
import dataclasses
import functools
import io
import itertools
import json
import shutil
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import fgsgd_jax as fg
from fgsgd_jax.__main__ import main
from fgsgd_jax.experiments import data
from fgsgd_jax.experiments.cli import Interrupted, UsageError
from fgsgd_jax.experiments.models import CNN
from fgsgd_jax.experiments.study import (
    batch_normalized,
    bounds,
    classical_problems,
    convergence,
    convergence_problems,
    coordinates,
    copying,
    depth_convolutional,
    figures,
    grid,
    permuted,
    rates,
    recurrent,
    report,
    robustness_network,
    running,
    scales,
    table,
    trials,
)
from fgsgd_jax.experiments.study.config import STUDIES

RATES = [{"rate": 0.1}, {"rate": 1.0}]


def study(run, **changes) -> grid.Study:
    settings = {
        "name": "quadratic",
        "title": "A quadratic",
        "cases": [{"size": 1}, {"size": 2}],
        "methods": {"a": RATES, "b": RATES},
        "run": run,
        "score": "error",
        "results": {"error": "error"},
        "seeds": 3,
        "tuning_seeds": 2,
        "draw": lambda rows, path: path.write_bytes(b""),
    }
    return grid.Study(**(settings | changes))


def error(trial):
    """A result that depends on every part of the trial; "a" is best at 1, "b" at 0.1."""
    best = {"a": 1.0, "b": 0.1}[trial["method"]]
    return {"error": abs(trial["rate"] - best) + trial["size"] + 0.01 * trial["seed"]}


def no_interrupts():
    pass


# --- the grid ---------------------------------------------------------------------------------


def test_all_settings_run_on_the_tuning_seeds_and_the_best_on_all_seeds(tmp_path):
    rows = running.run(study(error), tmp_path / "trials.jsonl", no_interrupts, quiet=True)
    ran = {(row["size"], row["method"], row["rate"], row["seed"]) for row in rows}
    tuning = set(itertools.product((1, 2), "ab", (0.1, 1.0), (0, 1)))
    later = {
        (size, method, rate, 2) for size in (1, 2) for method, rate in (("a", 1.0), ("b", 0.1))
    }
    assert ran == tuning | later
    assert len(rows) == len(ran)


@pytest.mark.parametrize("trials", [0, 1, 5, 9, 17])
def test_an_interrupted_study_continues_and_equals_an_uninterrupted_one(tmp_path, trials):
    whole = tmp_path / "whole.jsonl"
    running.run(study(error), whole, no_interrupts, quiet=True)
    calls = []

    def run(trial):
        if len(calls) == trials:
            raise KeyboardInterrupt
        calls.append(trial)
        return error(trial)

    path = tmp_path / "trials.jsonl"
    with pytest.raises(KeyboardInterrupt):
        running.run(study(run), path, no_interrupts, quiet=True)
    done = len(calls)
    trials = -1  # do not interrupt again
    running.run(study(run), path, no_interrupts, quiet=True)
    assert path.read_text() == whole.read_text()
    assert len(calls) == len(path.read_text().splitlines()) >= done  # nothing ran twice


def test_the_progress_of_a_continued_study_starts_where_it_stopped(tmp_path, capsys):
    path = tmp_path / "trials.jsonl"
    running.run(study(error), path, no_interrupts, quiet=True)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:7]) + '{"size": 9, "method": "a"}\n')  # the last of another
    running.run(study(error), path, no_interrupts, quiet=False)
    shown = capsys.readouterr().err
    assert f" 7/{len(lines)} " in shown.split("trials")[0]
    assert f" {len(lines)}/{len(lines)} " in shown.split("\r")[-1]


STAGES = {"tuning": {"epochs": 1}, "final": {"epochs": 5}}


def test_the_chosen_settings_are_trained_longer_from_all_seeds_and_only_that_is_reported(tmp_path):
    def run(trial):
        return {"error": error(trial)["error"] / trial["epochs"]}

    problem = study(run, **STAGES, cases=[{"size": 1}])
    rows = running.run(problem, tmp_path / "trials.jsonl", no_interrupts, quiet=True)
    ran = {(row["epochs"], row["method"], row["rate"], row["seed"]) for row in rows}
    tuning = set(itertools.product([1], "ab", (0.1, 1.0), (0, 1)))
    final = {
        (5, method, rate, seed) for method, rate in (("a", 1.0), ("b", 0.1)) for seed in range(3)
    }
    assert ran == tuning | final
    assert len(rows) == len(ran)
    chosen = problem.chosen(rows, {"size": 1}, "a")
    assert [row["error"] for row in chosen] == pytest.approx([0.2, 0.202, 0.204])


@pytest.mark.parametrize("together", [1, 2, 3, 100])
def test_trials_of_one_method_run_together_and_give_the_same_rows(tmp_path, together):
    groups = []

    def run_together(trials):
        groups.append(trials)
        return [error(trial) for trial in trials]

    one, several = tmp_path / "one.jsonl", tmp_path / "several.jsonl"
    running.run(study(error), one, no_interrupts, quiet=True)
    problem = study(None, together=together, run_together=run_together)
    running.run(problem, several, no_interrupts, quiet=True)
    assert several.read_text() == one.read_text()
    assert max(map(len, groups)) == min(together, 4)  # of two settings and two seeds
    assert all(len({trial["method"] for trial in group}) == 1 for group in groups)


@pytest.mark.parametrize("changes", [{}, STAGES])
def test_after_its_seconds_a_study_reports_the_finished_methods_and_continues_later(
    tmp_path, monkeypatch, changes
):
    drawn = []
    draw = lambda rows, path: drawn.append({row["method"] for row in rows})  # noqa: E731
    problem = study(error, cases=[{"size": 1}], draw=draw, **changes)
    report.run(problem, tmp_path / "whole", quiet=True)
    clock = itertools.count()  # a second passes before every trial
    monkeypatch.setattr(running.time, "monotonic", lambda: next(clock))
    with pytest.raises(UsageError, match="After 4 seconds no method is finished"):
        report.run(problem, tmp_path / "run", seconds=4, quiet=True)
    report.run(problem, tmp_path / "run", seconds=6, quiet=True)  # "a" is done, "b" is not
    table_of = lambda name: (tmp_path / name / "table.md").read_text().splitlines()  # noqa: E731
    (_, row, *others), whole = table_of("run")[3:], table_of("whole")
    assert row.startswith("| 1 | a |")
    assert not others
    assert whole[4].startswith(row.rstrip("| "))
    assert drawn == [{"a", "b"}, {"a"}]
    report.run(problem, tmp_path / "run", seconds=100, quiet=True)
    assert table_of("run") == whole
    for name in ("trials.jsonl", "table.md"):
        assert (tmp_path / "run" / name).read_text() == (tmp_path / "whole" / name).read_text()


@pytest.mark.parametrize("line", [b"[]", b"3", b"{}", b"\xff\xfe", b'{"size": 1, "meth'])
def test_a_damaged_line_is_told_with_what_to_do(tmp_path, line):
    path = tmp_path / "trials.jsonl"
    running.run(study(error), path, no_interrupts, quiet=True)
    first, *others = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, line, *others, b""]))
    with pytest.raises(UsageError, match=r"Line 2 of .* is damaged\. Remove the line"):
        running.run(study(error), path, no_interrupts, quiet=True)


def test_a_file_of_trials_that_cannot_be_read_or_written_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"cannot be read \(Is a directory\); give another --run"):
        running.Rows(tmp_path)
    with pytest.raises(UsageError, match=r"cannot be written \(No such file .*\); make room, and"):
        running.Rows(tmp_path / "missing" / "trials.jsonl").append({})


def test_a_line_cut_off_while_it_was_written_is_run_again(tmp_path):
    path = tmp_path / "trials.jsonl"
    running.run(study(error), path, no_interrupts, quiet=True)
    whole = path.read_text()
    path.write_text(whole[:-7])
    running.run(study(error), path, no_interrupts, quiet=True)
    assert path.read_text() == whole


def test_ctrl_c_says_that_the_trials_are_kept(tmp_path):
    def interrupted(trial):
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="The same command continues"):
        report.run(study(interrupted), tmp_path / "new", quiet=True)


def test_a_folder_of_something_else_is_not_touched(tmp_path):
    report.run(study(error), tmp_path / "mine", quiet=True)
    with pytest.raises(UsageError, match="holds another study"):
        report.run(study(error, title="Another"), tmp_path / "mine", quiet=True)
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UsageError, match="is not the folder of a study"):
        report.run(study(error), tmp_path, quiet=True)


@pytest.mark.parametrize("text", ["", "{", "[5]", "null"])
def test_a_damaged_folder_is_refused_in_one_sentence(tmp_path, text):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(UsageError, match=r"study.json is damaged .*; give another --run-dir\.$"):
        report.run(study(error), tmp_path, quiet=True)


@pytest.mark.parametrize("damage", ["{", '{"seed": 0,', "x"])
def test_a_damaged_trial_is_named_and_nothing_is_lost(tmp_path, damage):
    report.run(study(error), tmp_path, quiet=True)
    trials, table = tmp_path / "trials.jsonl", (tmp_path / "table.md").read_text()
    lines = trials.read_text().splitlines(keepends=True)
    damaged = "".join([lines[0], f"{damage}\n", *lines[2:]])
    trials.write_text(damaged)
    with pytest.raises(UsageError, match=r"^Line 2 of .*trials.jsonl is damaged. Remove the line"):
        report.run(study(error), tmp_path, quiet=True)
    assert trials.read_text() == damaged
    trials.write_text("".join([lines[0], *lines[2:]]))
    report.run(study(error), tmp_path, quiet=True)
    assert (tmp_path / "table.md").read_text() == table


@pytest.mark.parametrize("elsewhere", ["a large GPU", ""])
def test_trials_of_another_device_are_reported_but_not_continued(tmp_path, elsewhere):
    report.run(study(error, device=elsewhere), tmp_path / "run", quiet=True)
    needed = (tmp_path / "run" / "table.md").read_text()
    assert ("Trained on a large GPU." in needed) == bool(elsewhere)
    report.run(study(error, device="cpu"), tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "table.md").read_text() == needed
    trials = tmp_path / "run" / "trials.jsonl"
    trials.write_text("".join(trials.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UsageError, match="another device"):
        report.run(study(error, device="cpu"), tmp_path / "run", quiet=True)
    report.run(study(error, device=elsewhere), tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "table.md").read_text() == needed


def test_the_program_names_the_studies(capsys):
    assert main(["study", "robustnes"]) == 2
    assert "Did you mean 'robustness'?" in capsys.readouterr().err
    assert main(["study", "depth", "--data", "mnist"]) == 2
    assert "--data-dir" in capsys.readouterr().err


def test_a_setting_that_diverged_is_never_chosen(tmp_path):
    def run(trial):
        diverges = trial["rate"] == 1.0 and trial["seed"] == 1
        return {"error": float("nan") if diverges else 10.0 if trial["rate"] == 0.1 else 0.0}

    path = tmp_path / "trials.jsonl"
    rows = running.run(study(run), path, no_interrupts, quiet=True)
    assert all(json.loads(line) for line in path.read_text().splitlines())  # NaN is no JSON
    assert study(run).best(rows, {"size": 1}, "a") == {"rate": 0.1}


def test_methods_with_unequal_tuning_are_refused():
    with pytest.raises(ValueError, match="equally many settings"):
        study(error, methods={"a": RATES, "b": RATES[:1]})


def test_the_table_has_means_deviations_and_a_paired_test(tmp_path):
    noise = {"a": [0.1, 0.3, 0.2], "b": [0.5, 0.4, 0.9]}

    def run(trial):
        return {"error": noise[trial["method"]][trial["seed"]] + (trial["rate"] == 1.0)}

    problem = study(run, cases=[{"size": 7}])
    rows = running.run(problem, tmp_path / "trials.jsonl", no_interrupts, quiet=True)
    text = table.markdown(problem, rows)
    a, b = (line for line in text.splitlines() if line.startswith("| 7 "))
    for line, values in ((a, noise["a"]), (b, noise["b"])):
        assert f"{statistics.mean(values):.3g} ± {statistics.stdev(values):.2g}" in line
        assert "rate 0.1" in line
    assert f"{stats.ttest_rel(noise['b'], noise['a']).pvalue:.1g}" in b
    assert "best of 2 settings" in text


# --- the studies ------------------------------------------------------------------------------


def words(name, folder):
    return ["study", name, "--smoke", "--train-size", "300", "--run-dir", str(folder)]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """By the name of a study, the folder of a small run, and what the program printed."""

    @functools.cache
    def run(name):
        folder = tmp_path_factory.mktemp(name) / "run"
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert main(words(name, folder)) == 0
        return folder, out.getvalue()

    return run


def rows_in(folder):
    return [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs_at_a_small_size_and_nothing_twice(name, small):
    folder, out = small(name)
    assert (folder / "figure.png").stat().st_size > 1000
    assert (folder / "table.md").read_text() in out
    before = (folder / "trials.jsonl").read_text()
    assert len(before.splitlines()) > 1
    assert main(words(name, folder)) == 0
    assert (folder / "trials.jsonl").read_text() == before


@pytest.mark.slow
def test_the_certificate_of_a_linear_classifier_is_the_distance_to_its_boundary():
    key = jax.random.key(0)
    w = jax.random.normal(key, (5, 3))
    x = jax.random.normal(jax.random.key(1), (20, 5))
    outputs = np.asarray(x @ w, np.float64)
    labels = outputs.argmax(1)
    found = robustness_network.certified_radius([{"kernel": w, "bias": jnp.zeros(3)}], x, labels)
    for i, label in enumerate(labels):
        distances = [
            (outputs[i, label] - outputs[i, j]) / np.linalg.norm(w[:, label] - w[:, j])
            for j in range(3)
            if j != label
        ]
        np.testing.assert_allclose(found[i], min(distances), rtol=1e-4)


@pytest.mark.parametrize("where", ["hidden", "last", "both"])
def test_a_network_with_nan_certifies_nothing(where):
    sizes, number = (16, 128, 10), 1000
    hidden, last = robustness_network.initial(jax.random.key(0), sizes)
    spoiled = {"hidden": [hidden], "last": [last], "both": [hidden, last]}[where]
    for layer in spoiled:
        layer["kernel"] = jnp.full_like(layer["kernel"], jnp.nan)
    x = jax.random.normal(jax.random.key(1), (number, sizes[0]))
    labels = jnp.zeros(number, int)  # the place of the first NaN is the answer 0
    radii = jax.jit(robustness_network.certified_radius)([hidden, last], x, labels)
    assert not np.any(radii > 0)
    assert np.isfinite(radii).all()


@pytest.mark.slow
def test_no_attack_within_the_certified_radius_succeeds():
    params = robustness_network.initial(jax.random.key(0), (6, 8, 8, 3))
    x = jax.random.normal(jax.random.key(1), (30, 6))
    labels = robustness_network.network(params, x).argmax(-1)
    radii = robustness_network.certified_radius(params, x, labels)
    assert np.all(radii > 0)
    attacked = jax.jit(robustness_network.attacked)
    assert np.all(attacked(params, x, labels, 0.99 * radii[:, None]))
    # Far beyond it, the attack finds what it is looking for.
    assert not np.all(attacked(params, x, labels, jnp.full((30, 1), 10.0)))


def test_the_penalty_is_the_sum_of_the_squared_spectral_norms():
    kernels = [jnp.diag(jnp.array([3.0, 1.0])), jnp.diag(jnp.array([1.0, 2.0]))]
    params = [{"kernel": kernel} for kernel in kernels]
    np.testing.assert_allclose(robustness_network.penalty_of(params), 9 + 4, rtol=1e-5)
    slope = jax.grad(robustness_network.penalty_of)(params)[0]["kernel"]
    np.testing.assert_allclose(slope, [[6.0, 0], [0, 0]], atol=1e-4)  # 2σ u vᵀ


# --- classical --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", classical_problems.PROBLEMS)
def test_the_known_optimum_is_the_solution_of_the_rival_and_has_no_gradient(name):
    problem = classical_problems.PROBLEMS[name](np.random.default_rng(0))
    found, steps = problem.solve()
    assert steps >= 1
    assert problem.distance(found) < 1e-6
    assert problem.distance(problem.start) > 0.1
    np.testing.assert_allclose(found.T @ found, np.eye(found.shape[1]), atol=1e-12)
    with jax.enable_x64(True):
        gradient = np.asarray(jax.grad(problem.loss, 2)(jnp, problem.data, found))
        inner = found.T @ gradient
        tangent = gradient - found @ (inner + inner.T) / 2
        assert np.linalg.norm(tangent) < 1e-6
        loss = functools.partial(problem.loss, jnp, problem.data)
        assert bool(loss(found) < loss(problem.start))


def test_distances_to_components_ignore_what_is_free():
    rng = np.random.default_rng(1)
    principal = classical_problems.principal_components(rng)
    found, _ = principal.solve()
    assert principal.distance(found @ classical_problems.orthonormal(rng, 5, 5)) < 1e-6
    independent = classical_problems.independent_components(rng)
    found, _ = independent.solve()
    assert independent.distance(-found[:, ::-1]) < 1e-6
    assert independent.distance(found @ classical_problems.orthonormal(rng, 10, 10)) > 0.1


# --- bounds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_labels_becomes_another_class(share):
    labels = np.random.default_rng(0).integers(0, 5, 80)
    found = bounds.with_wrong_labels(labels, share, 5, seed=3)
    assert (found != labels).sum() == share * 80
    assert set(found) <= set(range(5))


def test_the_error_with_wrong_labels_is_that_of_relabelled_answers():
    # Answers of which 30 % are wrong, against labels of which 40 % were replaced, many times.
    labels = np.random.default_rng(0).integers(0, 4, 200_000)
    answers = bounds.with_wrong_labels(labels, 0.3, 4, seed=1)
    given = bounds.with_wrong_labels(labels, 0.4, 4, seed=2)
    deviation = 0.5 / len(labels) ** 0.5
    found = (answers != given).mean()
    assert found == pytest.approx(bounds.error_with_wrong_labels(0.3, 0.4, 4), abs=5 * deviation)


def test_ranks_are_compared_within_methods_and_on_single_cases():
    # Within a method the gap grows with the bound; on one case the method with the larger bound
    # has the smaller gap. Of the 15 pairs of all six, 6 + 3 have the order of their bounds.
    offsets = {"a": (0.0, 10.0), "b": (0.5, 0.0)}  # of the gap, of the bound

    def run(trial):
        gap, bound = offsets[trial["method"]]
        results = {"error": 1.0, "gap": trial["size"] + gap}
        return results | dict.fromkeys(bounds.BOUNDS, bound + trial["size"])

    problem = study(None, cases=[{"size": size} for size in (1, 2, 3)])
    rows = [
        trial | run(trial)
        for size, method, rate, seed in itertools.product((1, 2, 3), "ab", (0.1, 1.0), range(3))
        for trial in [{"size": size, "method": method, "rate": rate, "seed": seed}]
    ]
    expected = (9 - 6) / 15
    for line in bounds.correlations(problem, rows).splitlines()[-3:]:
        assert line.split(" | ")[1:] == ["1.00", "-1.00", f"{expected:.2f} |"]


# --- convergence ------------------------------------------------------------------------------


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("name", convergence.NETWORKS)
def test_the_small_networks_are_their_formulas_and_start_on_the_manifold(name):
    params, spec = convergence_problems.initial(jax.random.key(0), name)
    assert [path for path, _ in spec.on_manifolds()] == ["first"]
    assert float(fg.residual(params, spec)["first"]) < 1e-6
    x = np.random.default_rng(0).standard_normal((7, *convergence.NETWORKS[name][0]))
    first, second = (np.asarray(params[which], np.float64) for which in ("first", "second"))
    hidden = {
        "linear": lambda z: z,
        "leaky ReLU": lambda z: np.where(z > 0, z, 0.2 * z),
        "convolution": lambda z: np.maximum(z, 0)[:, :, 0],
    }[name](x @ first)
    np.testing.assert_allclose(
        convergence_problems.network(name, params, x), hidden @ second, atol=1e-5
    )


@pytest.mark.slow
def test_a_training_that_grows_has_left_and_one_that_falls_has_not():
    keys = jax.random.split(jax.random.key(0), 3)

    def course(rate):
        return convergence_problems.courses("linear", False, "SGD", (2, 15), keys, rate)

    assert not course(0.01).left.any()
    assert course(100.0).left.all()


@pytest.mark.slow
def test_the_gradient_norm_is_that_of_the_tangent_part_on_all_samples():
    # At a rate of 0 nothing moves: the norm is that of the start, on a sphere for each column.
    key = jax.random.key(3)
    found = convergence_problems.courses("leaky ReLU", False, "SGD", (1, 1), key[None], 0.0)
    keys = jax.random.split(key, 5)
    x = np.asarray(jax.random.normal(keys[0], (200, 10)), np.float64)
    (teacher, _), (start, _) = (convergence_problems.initial(k, "leaky ReLU") for k in keys[1:3])
    w, u = (np.asarray(start[which], np.float64) for which in ("first", "second"))
    z = x @ w
    slopes = np.where(z > 0, 1, 0.2)
    error = (z * slopes) @ u - convergence_problems.network("leaky ReLU", teacher, x)
    by_w = x.T @ (error * u.T * slopes) / 200
    tangent = by_w - w * (w * by_w).sum(0)
    by_u = (z * slopes).T @ error / 200
    expected = np.sqrt((tangent**2).sum() + (by_u**2).sum())
    np.testing.assert_allclose(found.gradients, [[expected]], rtol=1e-5)


def test_the_steady_rate_is_below_all_rates_at_which_a_start_left():
    rows = [{"learning_rate": rate, "left": left} for rate, left in ((1, 0), (3, 0.1), (10, 0))]
    assert convergence.steady(rows) == 1
    assert convergence.steady(rows[:1]) == 1
    assert convergence.steady(rows[1:]) == 0


# --- rates ------------------------------------------------------------------------------------


def rows_of(errors, seeds=(0, 1)):
    return [
        {"learning_rate": rate, "seed": seed, "validation_error": error, "test_error": error}
        for rate, error in errors.items()
        for seed in seeds
    ]


def test_the_width_is_where_the_error_crosses_one_and_a_half_times_the_lowest():
    # Between 0.1 and 1 the error falls from 0.3 to 0.1: 0.15 is a quarter of a decade before 1.
    # Between 1 and 10 it rises to 0.2: 0.15 is half a decade after 1.
    rows = rows_of({0.1: 0.3, 1.0: 0.1, 10.0: 0.2})
    rows += rows_of({1.0: 0.0}, seeds=(2,))  # a seed that other rates lack counts nowhere
    assert rates.width(rows) == pytest.approx(0.75, abs=1e-3)
    flat = rows_of({0.1: 0.1, 1.0: 0.1, 10.0: 0.1})
    assert rates.width(flat) == pytest.approx(2)


def test_beyond_is_the_distance_from_the_best_rate_to_the_last_that_trains():
    assert rates.beyond(rows_of({0.1: 0.1, 1.0: 0.4, 10.0: 0.9})) == pytest.approx(1)
    assert rates.beyond(rows_of({0.1: 0.9, 1.0: 0.8, 10.0: 0.9})) == 0  # none trains


# --- depth ------------------------------------------------------------------------------------


def test_the_matrix_of_a_convolution_on_few_places_is_the_convolution():
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((5, 4, 4, 3)), rng.standard_normal((3, 3, 3, 2))
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (1, 2)
    )
    expected = np.einsum("nrcihw,hwio->nrco", windows, kernel)
    found = depth_convolutional.convolved_small(jnp.float32(x).reshape(5, 16, 3), kernel)
    np.testing.assert_allclose(found, expected.reshape(5, 16, 2), atol=1e-5)


@pytest.mark.parametrize("method", depth_convolutional.NETWORK.poms)
def test_the_start_of_all_convolutional_networks_is_delta_orthogonal(method):
    @jax.jit
    def starts(key):
        params = depth_convolutional.initial(key, (7, 7, 1), 3, 10)
        spec = depth_convolutional.NETWORK.spec(method, params, 1.0)
        return params["hidden"]["kernel"], fg.project(params, spec)["hidden"]["kernel"]

    free, constrained = starts(jax.random.key(0))
    middle = np.asarray(free[:, 1, 1])
    np.testing.assert_allclose(middle.mT @ middle, np.tile(np.eye(8), (3, 1, 1)), atol=1e-5)
    np.testing.assert_allclose(np.sum(np.square(free)), np.sum(middle**2), rtol=1e-6)
    np.testing.assert_allclose(constrained, free, atol=1e-5)


def test_the_curve_over_rates_has_the_better_second_hyperparameter_at_every_rate():
    errors = {(0.1, 1.0): 0.5, (0.1, 1.05): 0.4, (1.0, 1.0): 0.2, (1.0, 1.05): 0.3}
    settings = [{"learning_rate": rate, "scale": scale} for rate, scale in errors]
    problem = study(None, methods={"a": settings}, cases=[{"layers": 3}], tuning_seeds=2)
    rows = [
        {"layers": 3, "method": "a", **setting, "seed": seed, "validation_error": error + change}
        for setting, error in zip(settings, errors.values(), strict=True)
        for seed, change in enumerate((-0.1, 0.1, 0.5))  # the last is not for tuning
    ]
    found = figures.best_by_rate(problem, rows, {"layers": 3}, "a", "learning_rate")
    assert found == pytest.approx({0.1: 0.4, 1.0: 0.2})


# --- copying ----------------------------------------------------------------------------------


def test_the_answer_of_the_copying_memory_repeats_the_symbols_after_the_marker():
    inputs, answers = copying.sequences(jax.random.key(0), 3, delay=7)
    assert inputs.shape == answers.shape == (27, 3)
    for column in range(3):
        before, after = inputs[:, column].tolist(), answers[:, column].tolist()
        assert all(symbol < 8 for symbol in before[:10])
        assert before[10:] == [8] * 6 + [9] + [8] * 10
        assert after == [8] * 17 + before[:10]


def test_without_memory_the_best_loss_is_that_of_guessed_symbols():
    _, answers = copying.sequences(jax.random.key(0), 500, delay=7)
    # Blanks with certainty, then every symbol with the probability 1/8.
    guess = np.full((27, 9), -1e9)
    guess[:17, 8] = 0
    guess[17:, :8] = np.log(1 / 8)
    places = np.arange(27)[:, None]
    losses = -guess[places, np.asarray(answers)]
    assert losses.mean() == pytest.approx(copying.without_memory(7))


def test_every_delay_is_a_case_and_has_a_folder_of_its_own():
    problem = copying.study((100, 300), smoke=False)
    assert problem.cases == [{"delay": 100}, {"delay": 300}]
    assert problem.default_folder != copying.study((100,), smoke=False).default_folder
    assert "0.173, 0.065" in problem.title  # 10·ln 8 / 120 and / 320


# --- permuted ---------------------------------------------------------------------------------


def test_pixels_come_in_one_order_for_all_images_and_averaged_to_a_length():
    numbers = np.random.default_rng(0)
    pixels = numbers.integers(0, 256, (20, 28, 28, 1), np.uint8)
    labels = np.arange(20) % 10
    images = data.ImageData("mnist", pixels, labels, pixels[:5], labels[:5])
    problem = permuted._Problem(images, epochs=1)
    (train, _), (test, _) = problem.train, problem.test
    averaged = pixels.reshape(20, 14, 2, 14, 2).mean((2, 4)).round().reshape(20, 196)
    scaled = (averaged - pixels.mean()) / pixels.std()
    order = [int(np.argmin(np.abs(scaled[:16] - train[:, [i]]).sum(0))) for i in range(196)]
    assert sorted(order) == list(range(196))
    assert order != sorted(order)
    np.testing.assert_allclose(train, scaled[:16, order], atol=1e-5)
    np.testing.assert_allclose(test, scaled[:5, order], atol=1e-5)


def test_the_recurrent_network_is_a_loop_over_the_pixels():
    params = recurrent.initial(jax.random.key(0), 1, 3)
    numbers = np.random.default_rng(0)
    params["bias"] = jnp.asarray(numbers.normal(size=64), jnp.float32)
    w = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    x = numbers.normal(size=(2, 5))
    h = np.zeros((2, 64))
    for step in range(5):
        z = h @ w["recurrent"] + x[:, step, None] * w["input"]
        h = np.sign(z) * np.maximum(np.abs(z) + w["bias"], 0)
    found = permuted.network(params, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, h @ w["output"] + w["output_bias"], atol=1e-4)


# --- batch-normalized -------------------------------------------------------------------------


def test_methods_of_the_batch_normalized_study_take_the_steps_of_their_names():
    numbers = np.random.default_rng(0)
    pixels = numbers.integers(0, 256, (100, 8, 8, 1), np.uint8)
    images = data.ImageData("mnist", pixels, np.arange(100) % 10, pixels, np.arange(100) % 10)
    problem = batch_normalized._Problem(images, (4,), epochs=1)
    batch = jnp.arange(50)

    def moved(method, rate, other):
        params, state = problem._start(method, jax.random.key(0), rate, other)
        return params, problem._step(method, params, state, batch, rate, other)[0]

    w, by_sgd = moved("SGD", 0.1, 0.5)
    gradient = jax.grad(batch_normalized._loss)(w, problem.train[0][:50], problem.train[1][:50])
    expected = jax.tree.map(lambda w, g: w - 0.1 * (g + 0.5 * w), w, gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), by_sgd, expected)
    for method in batch_normalized._methods():
        if "," in method:
            before, after = moved(method, 0.1, 0.01)
            spec = batch_normalized._spec(method, before)
            assert max(jax.tree.leaves(fg.residual(after, spec))) < 1e-5
            change = np.abs(after["head"]["kernel"] - before["head"]["kernel"])
            # The first step of Adam is as long as its rate.
            np.testing.assert_allclose(change[change > 0], 0.01, rtol=1e-2)
            assert np.mean(change > 0) > 0.5


# --- coordinates and scales -------------------------------------------------------------------


def test_both_halves_of_the_training_images_hold_each_class_in_proportion():
    images = data.load("digits", train_size=501)
    parts = trials.halves(images)
    counts = [np.bincount(part.train_labels, minlength=10) for part in parts]
    assert np.abs(counts[0] - counts[1]).max() <= 1
    found = np.concatenate([part.train_images for part in parts])
    assert sorted(map(bytes, found)) == sorted(map(bytes, images.train_images))
    assert all(part.test_images is images.test_images for part in parts)


def test_only_the_rates_of_scaled_steps_follow_the_scale():
    rates = {
        method: [coordinates.learning_rate(method, scale, 3.0) for scale in (10.0, 1.0, 0.1)]
        for method in coordinates.METHODS
    }
    assert rates == {
        "unit": [3.0, 3.0, 3.0],
        "scaled": [1.5, 0.15, 0.015],
        "radius 0.05": [0.15, 0.15, 0.15],
    }


@pytest.mark.slow
def test_unit_coordinates_do_not_see_the_scale_of_a_normalized_network(small):
    losses = {}
    for row in rows_in(small("coordinates")[0]):
        key = row["method"], row["rate_over_radius"], row["seed"]
        losses.setdefault(key, {})[row["scale"]] = row["train_loss"]
    # At a tenth of γ the ε of batch normalization matters.
    changes = {key: abs(of[10.0] / of[1.0] - 1) for key, of in losses.items() if len(of) == 3}
    assert {method for method, _, _ in changes} == {"unit", "scaled"}
    assert all((change < 5e-4) == (key[0] == "unit") for key, change in changes.items()), changes


@pytest.mark.slow
def test_a_continued_study_compiles_once_for_all_rates_seeds_and_scales(
    small, tmp_path, monkeypatch
):
    folder = shutil.copytree(small("coordinates")[0], tmp_path / "run")
    lines = (folder / "trials.jsonl").read_text()
    (folder / "trials.jsonl").write_text("".join(lines.splitlines(keepends=True)[:9]))
    traced, call = [], CNN.__call__

    def counted(self, images, *, training):
        traced.extend([training] * training)
        return call(self, images, training=training)

    monkeypatch.setattr(CNN, "__call__", counted)
    assert main(words("coordinates", folder)) == 0
    assert (folder / "trials.jsonl").read_text() == lines
    assert len(traced) == 2  # of "unit" and of "scaled"


@pytest.mark.slow
def test_bounds_of_groups_are_lower_by_the_product_of_the_scales(small):
    bounds = {}
    for row in rows_in(small("scales")[0]):
        of_trial = bounds.setdefault((row["learning_rate"], row["seed"]), {})
        of_trial[row["method"]] = row["groups_neyshabur_2015"]
    # One kernel of one input and three output channels: three groups of one slice each.
    literal = (9 + 3 * 64) ** -0.5  # the feature map has 64 places
    features = (9 + 9 * 3) ** -0.5  # over λ, which is 1, since the images are normalized
    for of_trial in (bounds[0.3, 0], bounds[1.0, 0]):
        unit = of_trial["unit scale"]
        assert of_trial["literal"] - unit == pytest.approx(3 * np.log(literal), abs=0.01)
        assert of_trial["λ of kernels"] - unit == pytest.approx(3 * np.log(features), abs=0.01)


@pytest.mark.parametrize("module", [coordinates, scales])
def test_what_diverged_is_said_and_the_figure_is_drawn(module, tmp_path):
    problem = module.study(data.load("digits", train_size=100), smoke=True)

    def run(trial):
        bad = trial["seed"] == 1 and trial["method"] in ("scaled", "literal")
        return dict.fromkeys(problem.results, np.nan if bad else 0.25)

    report.run(dataclasses.replace(problem, run=run), tmp_path / "run", quiet=True)
    assert "diverged in 1 of 2" in (tmp_path / "run" / "table.md").read_text()
    assert (tmp_path / "run" / "figure.png").stat().st_size > 1000


# --- tables -----------------------------------------------------------------------------------


def test_a_method_with_nothing_to_tune_stands_beside_tuned_ones(tmp_path):
    problem = study(
        lambda trial: {"error": trial.get("rate", 0.5 + trial["seed"] ** 2) + trial["seed"]},
        methods={"exact": [{}], "a": RATES},
        across_settings={"rows": len},
    )
    rows = running.run(problem, tmp_path / "trials.jsonl", no_interrupts, quiet=True)
    assert len(rows) == 2 * (3 + 5)
    lines = table.markdown(problem, rows).splitlines()
    assert "best of 2 settings" in lines[0]
    assert lines[2] == "| size | method | settings | error | rows | p of error |"
    assert lines[4] == "| 1 | exact | – | 3.17 ± 3.1 | 3 |  |"
    assert lines[5].startswith("| 1 | a | rate 0.1 | 1.1 ± 1 | 5 |")


@pytest.mark.parametrize("difference", [0.0, 0.1, 1e-5])
def test_a_difference_that_is_the_same_for_all_seeds_has_no_probability(tmp_path, difference):
    def run(trial):
        return {"error": 0.3 + 0.07 * trial["seed"] + difference * (trial["method"] == "b")}

    problem = study(run, cases=[{"size": 1}], methods={"a": [{}], "b": [{}]})
    rows = running.run(problem, tmp_path / "trials.jsonl", no_interrupts, quiet=True)
    assert table.markdown(problem, rows).rstrip().endswith("| – |")


def test_a_result_that_a_method_does_not_have_is_a_dash(tmp_path):
    def run(trial):
        return error(trial) | ({"normalized": 0.25} if trial["method"] == "a" else {})

    problem = study(run, results={"error": "error", "normalized": "τ > 1"})
    rows = running.run(problem, tmp_path / "trials.jsonl", no_interrupts, quiet=True)
    _, _, _, _, a, b, *_ = table.markdown(problem, rows).splitlines()
    assert "| 0.25 ± 0 |" in a
    assert "| – |" in b


@pytest.mark.parametrize(
    ("shown_as", "cell"),
    [("percent", "| 22.5 ± 5.0 |"), ("mean", "| 0.225 |"), (None, "| 0.225 ± 0.05 |")],
)
def test_results_are_shown_in_per_cent_or_without_a_deviation(tmp_path, shown_as, cell):
    problem = study(
        lambda trial: {"error": 0.175 + 0.05 * trial["seed"] + (trial["rate"] == 1.0)},
        cases=[{"size": 1}],
        shown_as={"error": shown_as} if shown_as else {},
    )
    rows = running.run(problem, tmp_path / "trials.jsonl", no_interrupts, quiet=True)
    _, _, _, _, a, _ = table.markdown(problem, rows).splitlines()
    assert cell in a


def test_every_method_has_a_color_however_many_there_are():
    names = [str(number) for number in range(3 * len(figures.COLORS))]
    assert list(figures.colors(names)) == names

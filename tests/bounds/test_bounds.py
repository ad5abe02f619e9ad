"""Bounds: against a worked example, and Table 1 written once more in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance_helpers import to_slices

import fgsgd_jax as fg
from fgsgd_jax import bounds
from fgsgd_jax.norms import Norms

pytestmark = pytest.mark.usefixtures("quickly_compiled")

RNG = np.random.default_rng(0)


def norms(frobenius, spectral, two_to_one) -> Norms:
    return Norms(
        *(jnp.asarray(values, jnp.float32) for values in (frobenius, spectral, two_to_one))
    )


# Two layers, of two groups and of one; N = 100, ϖ = 8.
EXAMPLE = {"z": norms([0.5, 2.0], [0.25, 1.0], [2.0, 8.0]), "b": norms([3.0], [1.5], [12.0])}


def test_a_worked_example():
    got = bounds.log_bounds(EXAMPLE, samples=100, width=8)
    # ∏∏ δ_F = (0.5·2)·3 = 3, ∏∏ δ₂ = (0.25·1)·1.5 = 0.375, √N = 10, L = 2.
    by_hand = {
        "neyshabur_2015": 2**2 * 3.0 / 10,
        # ∏g δ₂→₁/δ₂ is 8·8 = 64 and 8; to the power ⅔, 16 and 4.
        "bartlett_2017": 0.375 / 10 * (16.0 + 4.0) ** 1.5,
        # ∏g δ_F²/δ₂² is 2²·2² = 16 and 2² = 4.
        "neyshabur_2018": 0.375 / 10 * math.sqrt(2**2 * 8 * (16.0 + 4.0)),
        "depth": 4.0,
        "frobenius": 3.0,
        "spectral": 0.375,
        "bartlett_sum": 20.0**1.5,
        "neyshabur_sum": math.sqrt(640.0),
        "samples": 0.1,
        "spectral_complexity": 0.375 * 20.0**1.5,
    }
    for name, value in by_hand.items():
        assert math.isclose(getattr(got, name), math.log(value), rel_tol=1e-6), name
    layers = {"z": (1.0, 0.25, 16.0, 16.0, 16.0), "b": (3.0, 1.5, 12.0, 4.0, 4.0)}
    assert list(got.layers) == list(layers)
    for path, values in layers.items():
        np.testing.assert_allclose(got.layers[path], np.log(values), rtol=1e-6, atol=1e-6)


# --- Table 1, once more --------------------------------------------------------------------------


def table_1(groups: list[list[np.ndarray]], samples: int, width: int) -> list[float]:
    """The logarithms of the three rows, from the matrices of the groups of every layer."""

    def log_product(norm, matrices) -> float:
        return sum(math.log(norm(matrix)) for matrix in matrices)

    def two(matrix):
        return np.linalg.norm(matrix, 2)

    def rows(matrix):
        return np.linalg.norm(matrix, axis=1).sum()

    frobenius = sum(log_product(np.linalg.norm, layer) for layer in groups)
    spectral = sum(log_product(two, layer) for layer in groups)
    bartlett = np.logaddexp.reduce(
        [2 / 3 * log_product(lambda m: rows(m) / two(m), layer) for layer in groups]
    )
    neyshabur = np.logaddexp.reduce(
        [2 * log_product(lambda m: np.linalg.norm(m) / two(m), layer) for layer in groups]
    )
    depth = len(groups)
    return [
        depth * math.log(2) + frobenius - math.log(samples) / 2,
        spectral - math.log(samples) / 2 + 1.5 * bartlett,
        spectral - math.log(samples) / 2 + 0.5 * (math.log(depth**2 * width) + neyshabur),
    ]


def groups_of_kernel(kernel, leaf_spec: fg.LeafSpec) -> list[np.ndarray]:
    """The slices of every group side by side, as the table of schemes says."""
    slices = to_slices(kernel)  # (C, D, A, B)
    inputs, outputs = slices.shape[:2]
    by_scheme = {
        "PI": lambda c, d: c,
        "PO": lambda c, d: d,
        "PIO": lambda c, d: leaf_spec.draw().groups[c, d],  # pyright: ignore[reportOptionalSubscript]
        "layer": lambda c, d: 0,
        "kernel": lambda c, d: c * outputs + d,
    }
    groups: dict[int, list] = {}
    for c in range(inputs):
        for d in range(outputs):
            groups.setdefault(int(by_scheme[leaf_spec.scheme](c, d)), []).append(slices[c, d])
    return [np.hstack(groups[group]) for group in sorted(groups)]


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("scheme", ["PI", "PO", "PIO", "layer", "kernel"])
def test_table_1_agrees_with_numpy(scheme):
    check_table_1(scheme, np.float32, rtol=1e-5)


@pytest.mark.slow
def test_table_1_agrees_with_numpy_in_float64():
    with jax.enable_x64(True):
        check_table_1("PIO", np.float64, rtol=1e-11)


def check_table_1(scheme: str, dtype, rtol: float):
    params = {
        "conv1": RNG.standard_normal((3, 3, 2, 6)).astype(dtype),
        "conv2": RNG.standard_normal((5, 2, 6, 4)).astype(dtype),
        "head": {"kernel": RNG.standard_normal((4, 9)).astype(dtype), "bias": np.ones(9)},
    }
    spec = fg.collection(params, ("conv2", fg.pom(scheme, fg.Sphere())), default=None)
    got = bounds.network_bounds(params, spec, samples=1234)
    conv1 = [params["conv1"].reshape(-1, 6).T]  # Euclidean weights are one group each
    head = [params["head"]["kernel"].T]
    groups = [conv1, groups_of_kernel(params["conv2"], spec["conv2"]), head]
    layers = [conv1, [params["conv2"].reshape(-1, 4).T], head]
    # The width is the largest number of outputs, that of the head.
    np.testing.assert_allclose(got.groups[:3], table_1(groups, 1234, 9), rtol=rtol)
    np.testing.assert_allclose(got.layers[:3], table_1(layers, 1234, 9), rtol=rtol)

    wider = bounds.network_bounds(params, spec, samples=1234, width=36).groups
    moved = np.asarray(wider[:3]) - np.asarray(got.groups[:3])
    np.testing.assert_allclose(moved, [0, 0, math.log(2)], atol=1e-5)  # √(36/9) = 2


def test_terms_add_up_and_jit_agrees():
    eager = bounds.log_bounds(EXAMPLE, samples=50, width=8)
    jitted = jax.jit(lambda norms, samples: bounds.log_bounds(norms, samples=samples, width=8))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), jitted(EXAMPLE, 50), eager
    )
    assert eager.neyshabur_2015 == eager.depth + eager.frobenius + eager.samples
    assert eager.bartlett_2017 == eager.spectral + eager.bartlett_sum + eager.samples
    assert eager.neyshabur_2018 == eager.spectral + eager.neyshabur_sum + eager.samples


def test_a_hundred_thousand_groups_stay_finite():
    count = 100_000
    many = {"w": norms(np.full(count, 2e-3), np.full(count, 1e-3), np.full(count, 8e-3))}
    got = bounds.log_bounds(many, samples=100, width=8)
    # Ratios 2 and 8, so Σ of one layer is ∏ itself: (8^⅔)^(3/2) = 8 and √(2²) = 2 per group.
    expected = [
        math.log(2) + count * math.log(2e-3) - math.log(10),
        count * math.log(8e-3) - math.log(10),
        count * math.log(2e-3) - math.log(10) + math.log(8) / 2,
    ]
    np.testing.assert_allclose(got[:3], expected, rtol=1e-5)


def test_scaling_a_weight_moves_all_rows_alike():
    params = {"w": RNG.standard_normal((3, 3, 4, 6)).astype(np.float32)}
    spec = fg.collection(params, ("w", fg.pom("PO", fg.Sphere())))
    before, after = (
        bounds.network_bounds(tree, spec, samples=10) for tree in (params, {"w": 3 * params["w"]})
    )
    for one, two, groups in ((before.groups, after.groups, 6), (before.layers, after.layers, 1)):
        moved = np.asarray(two[:3]) - np.asarray(one[:3])
        np.testing.assert_allclose(moved, groups * math.log(3), rtol=1e-4)


def test_a_group_of_zeros_makes_the_bounds_zero():
    got = bounds.log_bounds(
        {"a": norms([0.0, 1.0], [0.0, 1.0], [0.0, 4.0]), "b": norms([1.0], [1.0], [1.0])},
        samples=10,
        width=4,
    )
    assert [float(bound) for bound in got[:3]] == [-math.inf] * 3
    # The ratios of a matrix of zeros count as 1: Σ = 4^⅔ + 1.
    assert math.isclose(got.bartlett_sum, 1.5 * math.log(4 ** (2 / 3) + 1), rel_tol=1e-6)


def test_what_cannot_be_bounded_is_named():
    with pytest.raises(ValueError, match="at least one layer"):
        bounds.log_bounds({}, samples=10, width=4)
    with pytest.raises(ValueError, match="samples of at least 1, not 0"):
        bounds.log_bounds(EXAMPLE, samples=0, width=4)
    with pytest.raises(ValueError, match="width of at least 1, not -1"):
        bounds.log_bounds(EXAMPLE, samples=10, width=-1)


# --- margins -------------------------------------------------------------------------------------


def test_margins_are_correct_less_best_other():
    logits = RNG.standard_normal((50, 7)).astype(np.float32)
    labels = RNG.integers(0, 7, 50)
    expected = [
        row[label] - max(row[other] for other in range(7) if other != label)
        for row, label in zip(logits, labels, strict=True)
    ]
    got = bounds.margins(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(got) > 0, logits.argmax(1) == labels)


def test_normalized_margins_do_not_change_with_the_scale_of_a_layer():
    """A linear network: margins, R and ‖X‖ by NumPy; twice a weight is twice the margin and R."""
    w1, w2 = RNG.standard_normal((2, 5, 5)).astype(np.float32)
    x, labels = RNG.standard_normal((40, 5)).astype(np.float32), RNG.integers(0, 5, 40)

    def measured(w1):
        params = {"a": w1, "b": w2}
        layers = bounds.network_bounds(
            params, fg.collection(params, default=None), samples=40
        ).layers
        logits = jnp.asarray(x @ w1 @ w2)
        return bounds.normalized_margins(logits, jnp.asarray(labels), jnp.asarray(x), layers)

    complexity = np.linalg.norm(w1, 2) * np.linalg.norm(w2, 2)
    complexity *= sum(
        (np.linalg.norm(w.T, axis=1).sum() / np.linalg.norm(w, 2)) ** (2 / 3) for w in (w1, w2)
    ) ** (3 / 2)
    logits = np.float64(x) @ w1 @ w2
    others = np.where(np.arange(5) == labels[:, None], -np.inf, logits).max(axis=1)
    margins = logits[np.arange(40), labels] - others
    expected = margins / (complexity * np.linalg.norm(x) / 40)
    got = measured(w1)
    np.testing.assert_allclose(got.normalized, expected, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(measured(8 * w1).normalized, got.normalized, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(got.margins, margins, rtol=1e-4, atol=1e-5)


def test_margins_of_wrong_shapes_are_refused():
    ones = jnp.ones
    for logits, labels in (
        (ones((3, 1)), ones(3, int)),
        (ones((3, 4)), ones(2, int)),
        (ones(3), ones(3, int)),
    ):
        with pytest.raises(ValueError, match="two classes at least"):
            bounds.margins(logits, labels)
    got = bounds.log_bounds(EXAMPLE, samples=10, width=4)
    with pytest.raises(ValueError, match="as many inputs as labels"):
        bounds.normalized_margins(ones((3, 4)), ones(3, int), ones((2, 4)), got)

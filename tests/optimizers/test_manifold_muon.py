"""`manifold_muon`: directions near the optimum of the dual, whatever the gradient's size."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from conformance_helpers import random_like, types_of

import fgsgd_jax as fg
from fgsgd_jax import linalg

STIEFEL = fg.Stiefel()


def orthonormal(rng, rows, columns):
    return np.linalg.qr(rng.normal(size=(rows, columns)))[0]


def polar(x):
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    return u @ vt


def tangent(w, g):
    return g - w @ (w.T @ g + g.T @ w) / 2


def best_decrease(w, g):
    """max ⟨g, A⟩ over tangent A with ‖A‖₂ ≤ 1, as the minimum of its dual ‖g + wX‖_*."""
    p, g = w.shape[1], g / np.linalg.norm(g, 2)
    rows, columns = np.triu_indices(p)

    def matrix(flat):
        x = np.zeros((p, p))
        x[rows, columns] = flat
        return x + np.triu(x, 1).T

    def dual(flat):
        u, s, vt = np.linalg.svd(g + w @ matrix(flat), full_matrices=False)
        slope = w.T @ u @ vt
        slope = slope + slope.T
        slope[np.diag_indices(p)] /= 2
        return s.sum(), slope[rows, columns]

    start = -(w.T @ g + g.T @ w)[rows, columns] / 2
    found = scipy.optimize.minimize(
        dual, start, jac=True, method="L-BFGS-B",
        options={"maxiter": 3000, "maxfun": 6000, "maxcor": 30, "ftol": 1e-13, "gtol": 1e-9},
    )  # fmt: skip
    return found.fun


@functools.cache
def case(name):
    """A point, a gradient of spectral norm 1, and the largest decrease per unit of step."""
    rows, columns, graded, seed = CASES[name]
    rng = np.random.default_rng(seed)
    w, g = orthonormal(rng, rows, columns), rng.normal(size=(rows, columns))
    if graded:
        values = np.geomspace(1, 1e-3, columns)
        g = orthonormal(rng, rows, columns) * values @ orthonormal(rng, columns, columns)
    g /= np.linalg.norm(g, 2)
    return w, g, best_decrease(w, g)


# Rows, columns, whether singular values fall from 1 to 10⁻³, seed.
CASES = {
    "8 × 4": (8, 4, False, 2),
    "100 × 50": (100, 50, False, 0),
    "128 × 32": (128, 32, False, 0),
    "256 × 64": (256, 64, False, 0),
    "graded 100 × 50": (100, 50, True, 0),
    "graded 256 × 64": (256, 64, True, 0),
}


def direction(w, g, **settings):
    """The direction of the link at one matrix, and its tangency error."""
    params = {"w": jnp.asarray(w, jnp.float32)}
    spec = fg.collection(params, ("w", fg.pom("layer", STIEFEL)))
    link = fg.scale_by_manifold_muon(spec, **settings)
    gradient = {"w": jnp.asarray(g, jnp.float32)}
    step, state = jax.jit(link.update)(gradient, link.init(params), params)
    return np.asarray(step["w"], np.float64), float(state.tangency["w"])


# --- directions ----------------------------------------------------------------------------------


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("solver", ["tangent", "exact"])
def test_directions_are_tangent_and_near_the_optimum_of_the_dual(solver, name):
    w, g, best = case(name)
    a, error = direction(w, tangent(w, g), solver=solver)
    assert np.linalg.norm(w.T @ a + a.T @ w) < 1e-5
    length = np.linalg.norm(a, 2)
    assert length < 1.01  # the power iteration may be a percent off
    share = np.sum(g * a) / length / best
    least = 0.90
    if solver == "exact":
        hard = name in ("100 × 50", "graded 100 × 50")
        least = 0.965 if hard else 0.999
        assert error < (0.05 if hard else 2e-3)
    assert least <= share <= 1 + 1e-5


def test_the_tangency_error_is_that_of_the_unprojected_direction():
    w, g, _ = case("128 × 32")
    a = polar(tangent(w, g))
    expected = np.linalg.norm(w.T @ a + a.T @ w) / 2 / np.sqrt(32)
    _, error = direction(w, tangent(w, g))
    assert error == pytest.approx(expected, rel=1e-3)


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("size", [4, 7, 16])
@pytest.mark.parametrize("solver", ["tangent", "exact"])
def test_square_points_take_the_exact_direction(solver, size):
    # A = W·msign(skew(WᵀG)); a skew matrix of odd order has a singular value 0, which stays 0.
    rng = np.random.default_rng(size)
    w, g = orthonormal(rng, size, size), rng.normal(size=(size, size))
    a, error = direction(w, tangent(w, g), solver=solver)
    skew = (w.T @ g - g.T @ w) / 2
    values = np.linalg.svd(skew)[1]
    assert np.sum(a * g) == pytest.approx(values.sum(), rel=1e-3)
    u, s, vt = np.linalg.svd(skew)
    np.testing.assert_allclose(a, w @ (u * (s > 1e-9 * s[0])) @ vt, atol=2e-2)
    assert error < 2e-2


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["tangent", "exact"])
@pytest.mark.parametrize("shape", [(8, 4), (3, 6), (5, 5)])
def test_the_size_of_the_gradient_does_not_matter(shape, solver):
    # Defect elsewhere: dual ascent with a fixed step, which returns its start on large gradients.
    rng = np.random.default_rng(1)
    w = polar(rng.normal(size=shape))
    g = np.asarray(rng.normal(size=shape), np.float32)
    g = g - (w @ (w.T @ g + g.T @ w) if shape[0] >= shape[1] else (g @ w.T + w @ g.T) @ w) / 2
    usual, _ = direction(w, g, solver=solver)
    for power in (-20, 20):  # about 1e-6 and 1e6, without rounding of the gradient itself
        other, _ = direction(w, np.float32(g) * np.float32(2.0**power), solver=solver)
        np.testing.assert_allclose(other, usual, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(6, 6), (24, 8), (8, 24), (300, 20)])
def test_polar_factors_by_polynomials_are_those_of_the_decomposition(shape):
    rng = np.random.default_rng(2)
    k = min(shape)
    left, right = orthonormal(rng, shape[0], k), orthonormal(rng, shape[1], k)
    x = jnp.asarray(left * np.geomspace(1, 3e-3, k) @ right.T, jnp.float32)
    np.testing.assert_allclose(linalg.msign(x), left @ right.T, atol=1e-5)
    values = np.linalg.svd(np.asarray(linalg.msign(x)))[1]
    assert 0.95 <= values.min() <= values.max() <= 1.05
    np.testing.assert_allclose(linalg.polar(x), left @ right.T, atol=1e-5)
    x = jnp.asarray(left * np.geomspace(1, 1e-5, k) @ right.T, jnp.float32)
    np.testing.assert_allclose(linalg.polar(x), left @ right.T, atol=1e-3)
    assert np.isnan(linalg.polar(x.at[:, 0].set(0) if shape[0] >= shape[1] else 0 * x)).all()


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("shape", [(60, 12), (12, 60), (400, 40)])
def test_polar_factors_of_tall_matrices_are_as_accurate_as_those_of_square_ones(shape):
    # Passes on xᵀx from the first one on would lose singular values of 10⁻³, whose squares round.
    rng = np.random.default_rng(4)
    k = min(shape)
    left, right = orthonormal(rng, shape[0], k), orthonormal(rng, shape[1], k)
    square = orthonormal(rng, k, k)
    values = np.geomspace(1, 2e-3, k)
    errors = []
    for one, other in ((left, right), (square, orthonormal(rng, k, k))):
        x = jnp.asarray(one * values @ other.T, jnp.float32)
        errors.append(np.linalg.norm(linalg.msign(x) - one @ other.T, 2))
    assert errors[0] <= 1.5 * errors[1] + 1e-5


def test_the_lyapunov_equation_is_solved_to_rounding():
    rng = np.random.default_rng(3)
    basis, c = orthonormal(rng, 9, 9), rng.normal(size=(9, 9))
    q, c = basis * np.geomspace(5, 0.05, 9) @ basis.T, c + c.T
    expected = scipy.linalg.solve_continuous_lyapunov(q, c)
    x = linalg.solve_lyapunov(jnp.asarray(q, jnp.float32), jnp.asarray(c, jnp.float32))
    np.testing.assert_allclose(x, expected, atol=1e-4 * np.abs(expected).max())


# --- the optimizer -------------------------------------------------------------------------------


@functools.cache
def problem(dtype="float32"):
    """A dense kernel, heads by named axes, a wide kernel, a convolution as a matrix, and a bias."""
    params = {
        "dense": jnp.ones((8, 5), dtype),
        "heads": jnp.ones((6, 2, 3), dtype),
        "wide": jnp.ones((3, 7), dtype),
        "conv": jnp.ones((2, 2, 3, 4), dtype),
        "bias": jnp.ones((3,), dtype),
    }
    heads = fg.Component(rows=(0,), columns=(2,), stack=(1,))
    spec = fg.collection(
        params,
        ("dense", fg.pom("layer", STIEFEL, scale=0.5)),
        ("heads", fg.pom("layer", STIEFEL, component=heads)),
        ("wide", fg.pom("layer", STIEFEL)),
        ("conv", fg.pom("layer", STIEFEL, component="matrix")),
        default=None,
    )
    return fg.project(random_like(params, seed=0), spec), spec


def matrices(params):
    """The matrices of the problem at unit scale, all tall."""
    yield 2 * np.asarray(params["dense"], np.float64)
    yield from np.moveaxis(np.asarray(params["heads"], np.float64), 1, 0)
    yield np.asarray(params["wide"], np.float64).T
    yield np.asarray(params["conv"], np.float64).reshape(12, 4)


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_three_steps_follow_the_formula_for_every_kind_of_matrix(momentum):
    params, spec = problem()
    tx = fg.manifold_muon(0.3, spec, momentum=momentum)
    state, update = tx.init(params), jax.jit(tx.update)
    traces = [0.0] * 5
    for seed in (1, 2, 3):
        g = random_like(params, seed)
        updates, state = update(g, state, params)
        moved = optax.apply_updates(params, updates)
        before, gradients, after = (list(matrices(tree)) for tree in (params, g, moved))
        for i, (w, gradient, actual) in enumerate(zip(before, gradients, after, strict=True)):
            traces[i] = tangent(w, gradient) + (momentum or 0.0) * tangent(w, traces[i] + 0 * w)
            a = tangent(w, polar(traces[i]))
            a /= max(1.0, np.linalg.norm(a, 2))
            np.testing.assert_allclose(actual, polar(w - 0.3 * a), atol=3e-3)
            assert np.linalg.norm(actual.T @ actual - np.eye(w.shape[1])) < 2e-6
        params = moved


@pytest.mark.slow
def test_rescaled_steps_are_longer_by_the_root_of_columns_over_rows():
    params, spec = problem()
    g = random_like(params, 1)
    steps = []
    for rescale in (False, True):
        link = fg.scale_by_manifold_muon(spec, rescale=rescale)
        steps.append(link.update(g, link.init(params), params)[0])
    for path, ratio in {"dense": 5 / 8, "heads": 3 / 6, "wide": 7 / 3, "conv": 4 / 12}.items():
        np.testing.assert_allclose(steps[1][path], ratio**0.5 * steps[0][path], rtol=1e-5)


@pytest.mark.slow
def test_euclidean_leaves_take_adam_or_a_transformation_of_their_own():
    params, spec = problem()
    g = random_like(params, 1)
    for euclidean, rate in ((None, 0.1), (optax.adam(1e-3), 1e-3)):
        tx = fg.manifold_muon(0.1, spec, euclidean=euclidean)
        updates, _ = tx.update(g, tx.init(params), params)
        np.testing.assert_allclose(updates["bias"], -rate * np.sign(g["bias"]), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_it_works_injected_and_donated_and_keeps_its_types(dtype):
    params, spec = problem(dtype)
    tx = optax.inject_hyperparams(fg.manifold_muon)(0.1, spec)
    state, update = tx.init(params), jax.jit(tx.update, donate_argnums=1)
    types = types_of((params, state))
    for seed in range(4):
        updates, state = update(random_like(params, seed), state, params)
        params = optax.apply_updates(params, updates)
    assert types_of((params, state)) == types
    assert max(fg.residual(params, spec).values()) < {"bfloat16": 5e-2, "float32": 2e-6}[dtype]


@pytest.mark.slow
def test_no_decomposition_is_in_the_jitted_step():
    params, spec = problem()
    for solver in ("tangent", "exact"):
        tx = fg.manifold_muon(0.1, spec, solver=solver)
        program = str(jax.make_jaxpr(tx.update)(params, tx.init(params), params))
        assert not re.search(r"\b(svd|eigh|qr|cholesky|lu)\[", program)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["tangent", "exact"])
def test_it_passes_the_check_of_optimizers(solver):
    params, spec = problem()
    report = fg.checks.check_optimizer(fg.manifold_muon(0.1, spec, solver=solver), params, spec)
    assert report.passed, f"\n{report.failures}"


def test_the_exact_solver_is_refused_on_other_manifolds():
    params = {"w": jnp.ones((4, 3)), "v": jnp.ones((4, 3))}
    spec = fg.collection(
        params, ("w", fg.pom("layer", STIEFEL)), ("v", fg.pom("layer", fg.Oblique()))
    )
    with pytest.raises(ValueError, match="solves for Stiefel manifolds only, but 'v'"):
        fg.manifold_muon(0.1, spec, solver="exact")
    with pytest.raises(ValueError, match="'tangent', 'exact'; got 'dual'"):
        fg.manifold_muon(0.1, spec, solver="dual")
    with pytest.raises(TypeError, match="momentum must be a number, or None for none"):
        fg.manifold_muon(0.1, spec, momentum="0.9")

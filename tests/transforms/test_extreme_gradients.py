"""Gradients that are NaN, infinite, huge, or exactly zero: alike on every manifold."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance_helpers import nearest, residual, tangent

import fgsgd_jax as fg

RATE = 0.5
MANIFOLDS = {
    "sphere": fg.Sphere(),
    "oblique": fg.Oblique(),
    "stiefel": fg.Stiefel(),
    "flat": fg.Euclidean(),
}
SIZES = {"3×3": (3, 3), "4×3": (4, 3)}
# An entry of the gradient of each of six components; the last is left as it is.
ENTRIES = (np.nan, np.inf, -np.inf, 1e30, 1e20, None)
FINITE = np.array([entry is None or np.isfinite(entry) for entry in ENTRIES])


def links(spec, *, normalize=True):
    return optax.chain(
        fg.project_to_tangent(spec),
        fg.scale_by_fgsgd(spec) if normalize else optax.identity(),
        optax.scale_by_learning_rate(RATE),
        fg.retract_updates(spec),
    )


OPTIMIZERS = {
    "fgsgd": (lambda spec: fg.fgsgd(RATE, spec), True),
    "chain": (links, True),
    "rsgd": (lambda spec: fg.rsgd(RATE, spec), False),
    "chain without τ": (lambda spec: links(spec, normalize=False), False),
}


def points(weight) -> np.ndarray:
    """`(components, rows, columns)`."""
    weight = np.asarray(weight, np.float64)
    return np.moveaxis(weight.reshape(*weight.shape[:2], -1), -1, 0)


def placed(scheme: str):
    rng = np.random.default_rng(0)
    params = {
        f"{name} {size}": np.float32(rng.normal(size=(*shape, 1, len(ENTRIES))))
        for name in MANIFOLDS
        for size, shape in SIZES.items()
        if size == "3×3" or name == "stiefel"  # which alone has code of its own for 3×3
    }
    rules = ((f"{name} *", fg.pom(scheme, manifold)) for name, manifold in MANIFOLDS.items())
    spec = fg.collection(params, *rules)
    return fg.project(params, spec), spec


def extreme(params):
    rng = np.random.default_rng(1)
    gradients = {}
    for path, weight in params.items():
        gradients[path] = np.float32(rng.normal(size=weight.shape))
        for component, entry in enumerate(ENTRIES):
            if entry is not None:
                gradients[path][1, 2, 0, component] = entry
    return gradients


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_not_finite_becomes_nan_and_what_is_finite_stays_on_its_manifold(optimizer):
    make, normalizes = OPTIMIZERS[optimizer]
    params, spec = placed("kernel")
    gradients = extreme(params)
    updates, _ = make(spec).update(gradients, make(spec).init(params), params)
    for path, after in optax.apply_updates(params, updates).items():
        x, g, y = map(points, (params[path], gradients[path], after))
        assert np.all(np.isnan(y[~FINITE])), path
        x, g, y = x[FINITE], g[FINITE], y[FINITE]
        name = path.split()[0]
        v = g if name == "flat" else tangent(name, x, g)
        if normalizes:
            norm = np.linalg.norm(v, axis=(-2, -1), keepdims=True)
            v = v / np.maximum(1, norm * (2 + norm))
        elif name == "stiefel":
            continue_at = slice(2, None)  # beyond 1e8 the polar factor depends on rounding
            assert np.max(residual(name, y)) < 1e-5, path
            x, v, y = x[continue_at], v[continue_at], y[continue_at]
        expected = x - RATE * v if name == "flat" else nearest(name, x - RATE * v)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5, err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["fgsgd", "chain"])
def test_a_gradient_that_is_not_finite_makes_its_group_nan_and_no_other(optimizer):
    params, spec = placed("PO")
    params = {path: np.repeat(weight, 2, axis=2) for path, weight in params.items()}
    spec = fg.collection(
        params, *((f"{name} *", fg.pom("PO", manifold)) for name, manifold in MANIFOLDS.items())
    )
    gradients = {path: np.array(np.cos(weight)) for path, weight in params.items()}
    for gradient in gradients.values():
        gradient[0, 0, 0, 1], gradient[1, 2, 1, 3] = np.inf, np.nan
    make, _ = OPTIMIZERS[optimizer]
    updates, _ = make(spec).update(gradients, make(spec).init(params), params)
    for path, update in updates.items():
        nan = np.isnan(update).all((0, 1))
        assert np.array_equal(nan, np.isnan(update).any((0, 1))), path
        assert np.array_equal(nan, np.isin(np.arange(6), (1, 3))[None] & np.ones((2, 1), bool)), (
            path
        )


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_derivative_of_an_update_at_a_zero_gradient_is_that_of_finite_differences(optimizer):
    with jax.enable_x64(True):
        params, spec = placed("PO")
        params = fg.project(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params), spec)
        tx = OPTIMIZERS[optimizer][0](spec)
        state = tx.init(params)
        rng = np.random.default_rng(2)
        direction = {path: rng.normal(size=weight.shape) for path, weight in params.items()}

        @jax.jit
        def after(t):
            gradients = jax.tree.map(lambda leaf: t * leaf, direction)
            return tx.update(gradients, state, params)[0]

        at_zero, slopes = jax.jit(lambda t: jax.jvp(after, (t,), (1.0,)))(0.0)
        h = 1e-4
        ahead, behind = after(h), after(-h)
        for path, slope in slopes.items():
            assert np.all(np.asarray(at_zero[path]) == 0), path
            expected = (np.asarray(ahead[path]) - np.asarray(behind[path])) / (2 * h)
            assert np.max(np.abs(expected)) > 0.1, path
            np.testing.assert_allclose(slope, expected, atol=1e-6, err_msg=path)

"""`land_updates` follows the formulas of landing and of POGO, and stays near the manifold."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance_helpers import random_like, residual, tangent

import fgsgd_jax as fg

RATE = 0.1


def problem(shape, scale=None):
    params = {"w": jnp.ones(shape), "bias": jnp.ones(3)}
    rule = ("w", fg.pom("layer", fg.Stiefel(), component="matrix"))
    spec = fg.collection(params, rule, default=None, scale=scale)
    return fg.project(random_like(params, 0), spec), spec


def optimizer(spec, rate=RATE, **settings):
    links = fg.project_to_tangent(spec), optax.scale_by_learning_rate(rate)
    return optax.chain(*links, fg.land_updates(spec, **settings))


def attraction(x):
    """y(yᵀy − 1) of tall matrices, (yyᵀ − 1)y of wide ones."""
    if x.shape[0] < x.shape[1]:
        return (x @ x.T - np.eye(x.shape[0])) @ x
    return x @ (x.T @ x - np.eye(x.shape[1]))


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("after_step", [True, False], ids=["POGO", "landing"])
@pytest.mark.parametrize(("shape", "scale"), [((6, 3), None), ((3, 6), 0.5), ((4, 4), None)])
def test_three_steps_follow_the_formulas(shape, scale, after_step):
    params, spec = problem(shape, scale)
    alpha, s = 0.3, scale or 1.0
    tx = optimizer(spec, attraction=alpha, after_step=after_step)
    state, update = tx.init(params), jax.jit(tx.update)
    for seed in (1, 2, 3):
        gradient = random_like(params, seed, 0.5)
        x, g = (np.asarray(tree["w"], np.float64) for tree in (params, gradient))
        x = x / s
        v = -RATE * tangent("stiefel", x, s * g)
        expected = s * (x + v - alpha * attraction(x + v if after_step else x))
        updates, state = update(gradient, state, params)
        np.testing.assert_allclose(updates["bias"], -RATE * gradient["bias"], rtol=1e-6)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["w"], expected, atol=1e-6)
        found = fg.residual(params, spec)["w"]
        np.testing.assert_allclose(found, residual("stiefel", expected / s), atol=1e-6)


def test_landing_stays_within_a_half_of_the_manifold_whatever_the_gradients():
    params, spec = problem((8, 3))
    tx = optimizer(spec, attraction=0.1, after_step=False)
    state, update = tx.init(params), jax.jit(tx.update)
    worst = 0.0
    for seed, size in enumerate((1.0, 1e3, 30.0, 1e6, 1e-3, 10.0) * 2):
        updates, state = update(random_like(params, seed, size), state, params)
        params = optax.apply_updates(params, updates)
        x = np.asarray(params["w"], np.float64)
        worst = max(worst, np.linalg.norm(x.T @ x - np.eye(3)))
    assert 0.1 < worst < 0.5 + 1e-5
    for _ in range(200):  # with small gradients it lands
        updates, state = update(random_like(params, 0, 1e-6), state, params)
        params = optax.apply_updates(params, updates)
    assert fg.residual(params, spec)["w"] < 1e-5


@pytest.mark.slow
def test_both_forms_solve_a_procrustes_problem():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(10, 4))
    u, _, vt = np.linalg.svd(a, full_matrices=False)
    params, spec = problem((10, 4))
    for after_step in (True, False):
        tx = optimizer(spec, after_step=after_step)

        def step(carry, _, tx=tx):
            params, state = carry
            gradient = {"w": -jnp.asarray(a, jnp.float32), "bias": jnp.zeros(3)}
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        run = jax.jit(lambda *carry, step=step: jax.lax.scan(step, carry, length=300)[0])
        found = run(params, tx.init(params))[0]["w"]
        np.testing.assert_allclose(found, u @ vt, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, -0.1, 0.6, np.nan])
def test_an_attraction_that_does_not_lead_to_the_manifold_is_refused(alpha):
    _, spec = problem((6, 3))
    with pytest.raises(ValueError, match="attraction must be above 0 and at most ½"):
        fg.land_updates(spec, attraction=alpha)


@pytest.mark.parametrize("manifolds", [fg.Sphere(), (fg.Stiefel(), fg.Oblique())])
def test_other_manifolds_are_refused(manifolds):
    params = {"w": jnp.ones((3, 3, 2, 4))}
    spec = fg.collection(params, ("w", fg.pom("PO", manifolds)))
    with pytest.raises(ValueError, match=re.escape("'w' is on another")):
        fg.land_updates(spec)

"""Averages of the iterates on manifolds, against formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg


def normalized(x):
    return x / np.linalg.norm(x)


def polar(x):
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    return u @ vt


def iterates(tx, params, gradients):
    """The weights after every step, and the last state."""
    state, found = tx.init(params), []
    update = jax.jit(tx.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        found.append(params)
    return found, state


@pytest.fixture(scope="module")
def sphere():
    params = {"w": jnp.array([[1.0], [0.0], [0.0]]), "bias": jnp.zeros(2)}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())), default=None)
    keys = jax.random.split(jax.random.key(0), 6)
    gradients = [
        {"w": jax.random.normal(key, (3, 1)), "bias": jax.random.normal(key, (2,))} for key in keys
    ]
    return params, spec, gradients


@pytest.mark.sweep(fast=4)
@pytest.mark.parametrize("decay", [None, 0.0, 0.6, 0.9])
@pytest.mark.parametrize("start", [0, 2])
def test_the_average_is_the_projected_running_mean(sphere, decay, start):
    params, spec, gradients = sphere
    tx = optax.chain(fg.rsgd(0.3, spec), fg.average_on_manifolds(spec, decay=decay, start=start))
    found, state = iterates(tx, params, gradients)
    w, bias = np.zeros((3, 1)), np.zeros(2)
    for step, point in enumerate(found, start=1):
        n = max(step - start, 1)
        share = 1 / n if decay is None else max(1 / n, 1 - decay)
        w = normalized(w + share * (np.asarray(point["w"], np.float64) - w))
        bias = bias + share * (np.asarray(point["bias"], np.float64) - bias)
    average = fg.get_average(state, params)
    np.testing.assert_allclose(average["w"], w, atol=1e-6)
    np.testing.assert_allclose(average["bias"], bias, atol=1e-6)


def test_the_updates_are_those_without_the_average(sphere):
    params, spec, gradients = sphere
    plain, _ = iterates(fg.rsgd(0.3, spec), params, gradients)
    tx = optax.chain(fg.rsgd(0.3, spec), fg.average_on_manifolds(spec))
    averaged, _ = iterates(tx, params, gradients)
    np.testing.assert_array_equal(plain[-1]["w"], averaged[-1]["w"])


@pytest.mark.slow
def test_aligned_averages_depend_on_the_span_only():
    params = {"w": jnp.eye(5, 2)}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Stiefel())))
    link = fg.average_on_manifolds(spec, align=True)
    angles = [0.3, 2.0, -1.1]
    state, average = link.init(params), np.zeros((5, 2))
    for step, angle in enumerate(angles, start=1):
        c, s = np.cos(angle), np.sin(angle)
        x = polar(np.eye(5, 2) + 0.1 * step * np.ones((5, 2))) @ np.array([[c, -s], [s, c]])
        _, state = link.update({"w": jnp.asarray(x) - params["w"]}, state, params)
        turned = x @ polar(x.T @ average) if step > 1 else x
        average = polar(average + (turned - average) / step)
        span = np.asarray(fg.get_average(state, params)["w"])
        np.testing.assert_allclose(span @ span.T, average @ average.T, atol=1e-5)


def test_the_average_of_bfloat16_weights_is_kept_in_float32():
    params = {"w": jnp.array([[1.0], [0.0]], jnp.bfloat16)}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())))
    tx = optax.chain(fg.rsgd(1e-2, spec), fg.average_on_manifolds(spec))
    _, state = iterates(tx, params, [{"w": jnp.array([[0.0], [-1.0]], jnp.bfloat16)}] * 3)
    assert state[-1].average["w"].dtype == jnp.float32
    assert fg.get_average(state, params)["w"].dtype == jnp.bfloat16


def test_wrong_arguments_get_one_sentence(sphere):
    params, spec, _ = sphere
    with pytest.raises(ValueError, match="decay must be at least 0 and below 1"):
        fg.average_on_manifolds(spec, decay=1.0)
    with pytest.raises(ValueError, match=r"start must be .* of at least 0, got -1"):
        fg.average_on_manifolds(spec, start=-1)
    with pytest.raises(ValueError, match="has no averages, one is needed"):
        fg.get_average(fg.rsgd(0.1, spec).init(params), params)

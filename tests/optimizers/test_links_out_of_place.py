"""Chains whose links are at the wrong place are refused where values are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg
from fgsgd_jax import checks

REQUESTS = {
    "slices on a sphere": ((3, 3, 2, 4), fg.pom("PO", fg.Sphere())),
    "a matrix on Stiefel": ((6, 4), fg.pom("layer", fg.Stiefel())),
    "a scaled mixture": (
        (3, 3, 2, 4),
        fg.pom("PIO", (fg.Sphere(), fg.Oblique(), fg.Stiefel()), scale=0.3),
    ),
}
RATE = optax.scale_by_learning_rate(0.1)
# All but the first are slow: each compiles every operation of its links.
every_request = pytest.mark.parametrize(
    "name",
    [
        name if name == "slices on a sphere" else pytest.param(name, marks=pytest.mark.slow)
        for name in REQUESTS
    ],
)


@functools.cache
def problem(name):
    shape, request = REQUESTS[name]
    keys = jax.random.split(jax.random.key(0))
    params = {"w": jax.random.normal(keys[0], shape), "bias": jnp.ones(4)}
    spec = fg.collection(params, ("w", request), default=None)
    gradient = {"w": jax.random.normal(keys[1], shape), "bias": jnp.ones(4)}
    return fg.project(params, spec), spec, gradient


def update(links, name):
    params, spec, gradient = problem(name)
    tx = optax.chain(*links(spec))
    return tx.update(gradient, tx.init(params), params)[0]


WRONG = {
    "no projection": lambda spec: (RATE, fg.retract_updates(spec)),
    "no projection before the normalizer": lambda spec: (
        fg.scale_by_fgsgd(spec),
        RATE,
        fg.retract_updates(spec),
    ),
    "no projection before momentum": lambda spec: (
        fg.trace_on_manifold(spec, 0.9),
        RATE,
        fg.retract_updates(spec),
    ),
    "a projection too late": lambda spec: (
        RATE,
        fg.retract_updates(spec),
        fg.project_to_tangent(spec),
    ),
    "entries scaled": lambda spec: (
        fg.project_to_tangent(spec),
        optax.scale_by_adam(),
        RATE,
        fg.retract_updates(spec),
    ),
    "entries clipped": lambda spec: (
        fg.project_to_tangent(spec),
        optax.clip(0.3),
        RATE,
        fg.retract_updates(spec),
    ),
    "weights decayed": lambda spec: (
        fg.project_to_tangent(spec),
        optax.add_decayed_weights(0.5),
        RATE,
        fg.retract_updates(spec),
    ),
}


@pytest.mark.parametrize("links", WRONG)
@every_request
def test_a_step_that_is_not_tangent_is_refused(links, name):
    with pytest.raises(ValueError, match=r"The step of 'w' is not tangent.*project_to_tangent"):
        update(WRONG[links], name)


def test_the_check_of_optimizers_finds_a_chain_without_the_projection():
    params, spec, _ = problem("slices on a sphere")
    tx = optax.chain(*WRONG["no projection before the normalizer"](spec))
    with pytest.raises(ValueError, match="not tangent"):
        checks.check_optimizer(tx, params, spec, steps=1)


RIGHT = {
    "rsgd": lambda spec: (fg.project_to_tangent(spec), RATE, fg.retract_updates(spec)),
    "clipped": lambda spec: (
        fg.project_to_tangent(spec),
        optax.clip_by_global_norm(0.1),
        RATE,
        fg.retract_updates(spec),
    ),
    "scaled coordinates": lambda spec: (
        fg.project_to_tangent(spec, coordinates="scaled"),
        fg.trace_on_manifold(spec, 0.9),
        fg.scale_by_fgsgd(spec),
        RATE,
        fg.retract_updates(spec, coordinates="scaled"),
    ),
    "a radius": lambda spec: (
        fg.project_to_tangent(spec, coordinates=2.0),
        RATE,
        fg.retract_updates(spec, coordinates=2.0),
    ),
    "a schedule that starts from 0": lambda spec: (
        fg.project_to_tangent(spec),
        optax.scale_by_learning_rate(optax.linear_schedule(0.0, 0.1, 10)),
        fg.retract_updates(spec),
    ),
}


@pytest.mark.parametrize("links", RIGHT)
@every_request
def test_a_tangent_step_is_accepted(links, name):
    assert np.isfinite(update(RIGHT[links], name)["w"]).all()


@every_request
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_rounding_at_a_critical_point_is_no_step_off_the_tangent_space(name, size):
    params, spec, gradient = problem(name)
    tx = optax.chain(*RIGHT["rsgd"](spec))
    # Normal at the weight: what the projection leaves is rounding, in any direction.
    tangent, _ = fg.project_to_tangent(spec).update(gradient, tx.init(params)[0], params)
    factor = 1 if spec["w"].gamma is None else spec["w"].gamma
    normal = {"w": size * (gradient["w"] - tangent["w"] / factor), "bias": gradient["bias"]}
    updates, _ = tx.update(normal, tx.init(params), params)
    assert float(jnp.abs(updates["w"]).max()) < 1e-6 * max(size, 1)


@every_request
@pytest.mark.parametrize("size", [1e6, 1e8])
@pytest.mark.parametrize("rest", [0.0, 1.0])
@pytest.mark.parametrize("links", ["rsgd", "scaled coordinates", "a radius"])
def test_the_rounding_of_a_large_normal_gradient_is_no_step_off_the_tangent_space(
    name, size, rest, links
):
    params, spec, gradient = problem(name)
    # Normal to all manifolds: a multiple of the weight.
    large = {"w": size * params["w"] + rest * gradient["w"], "bias": gradient["bias"]}
    tx = optax.chain(*RIGHT[links](spec))
    updates, _ = tx.update(large, tx.init(params), params)
    assert np.isfinite(updates["w"]).all()
    if name == "slices on a sphere" and links == "rsgd":
        link = fg.project_to_tangent(spec)
        tangent = link.update(large, link.init(params), params)[0]["w"]
        x, v = (np.asarray(a, np.float64).reshape(9, -1) for a in (params["w"], tangent))
        assert np.abs(np.sum(x * v, axis=0)).max() < 1e-5 * np.linalg.norm(v)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_short_dtypes_take_tangent_steps(dtype):
    params, spec, gradient = problem("slices on a sphere")
    params, gradient = (
        jax.tree.map(lambda leaf: leaf.astype(dtype), tree) for tree in (params, gradient)
    )
    tx = optax.chain(*RIGHT["rsgd"](spec))
    updates, _ = tx.update(gradient, tx.init(params), params)
    assert np.isfinite(updates["w"].astype(jnp.float32)).all()


@every_request
def test_weights_off_their_manifolds_are_not_taken_for_steps_that_are_not_tangent(name):
    params, spec, gradient = problem(name)
    tx = optax.chain(*RIGHT["rsgd"](spec))
    state = tx.init(params)
    with pytest.raises(ValueError, match=r"'w', with a residual of .*: something else moved them"):
        tx.update(gradient, state, jax.tree.map(lambda leaf: 1.5 * leaf, params))


def test_a_normalizer_before_the_projection_is_found_by_its_vectors():
    params, spec, gradient = problem("slices on a sphere")
    tx = optax.chain(fg.scale_by_fgsgd(spec), fg.project_to_tangent(spec), fg.retract_updates(spec))
    with pytest.raises(ValueError, match=r"step of 'w' is not tangent .* project_to_tangent"):
        tx.update(gradient, tx.init(params), params)

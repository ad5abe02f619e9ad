"""Master weights: short steps add up, and parameters are the rounding of points on manifolds."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg

SHAPE = (3, 3, 2, 4)


def problem(dtype, manifold=None, seed=0):
    """Weights, their spec, and the constant gradient of a linear loss."""
    keys = jax.random.split(jax.random.key(seed), 2)
    params = {"w": jax.random.normal(keys[0], SHAPE), "bias": jnp.ones(4)}
    spec = fg.collection(params, ("w", fg.pom("PO", manifold or fg.Sphere())))
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), fg.project(params, spec))
    gradient = {"w": jax.random.normal(keys[1], SHAPE), "bias": jnp.ones(4)}
    return params, spec, jax.tree.map(lambda leaf: leaf.astype(dtype), gradient)


def run(tx, params, gradient, steps):
    def step(carry, _):
        params, state = carry
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda carry: jax.lax.scan(step, carry, None, steps)[0])(
        (params, tx.init(params))
    )


def distance(params, others):
    return float(jnp.linalg.norm((params["w"].astype(float) - others["w"].astype(float)).ravel()))


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("manifold", [fg.Sphere(), fg.Stiefel()], ids=str)
def test_bfloat16_weights_move_as_far_as_float32_weights(rate, manifold):
    params, spec, gradient = problem(jnp.float32, manifold)
    short, _, short_gradient = problem(jnp.bfloat16, manifold)
    moved, _ = run(fg.fgsgd(rate, spec), params, gradient, 500)
    tx = fg.fgsgd(rate, spec, master_dtype=jnp.float32)
    found, state = run(tx, short, short_gradient, 500)
    start = tx.init(short).master
    assert distance(state.master, start) == pytest.approx(distance(moved, params), rel=0.03)
    np.testing.assert_array_equal(found["w"], state.master["w"].astype(jnp.bfloat16))


def test_steps_below_the_resolution_are_lost_without_master_weights():
    params, spec, gradient = problem(jnp.bfloat16)
    longer, _, longer_gradient = problem(jnp.float32)
    expected, _ = run(fg.fgsgd(1e-3, spec), longer, longer_gradient, 500)
    with pytest.warns(UserWarning, match=r"learning_rate=0\.001 .*0\.0078.*master_dtype"):
        lost, _ = run(fg.fgsgd(1e-3, spec), params, gradient, 500)
    assert distance(lost, params) < 0.5 * distance(expected, longer)


@pytest.mark.parametrize("optimizer", [fg.riemannian_adam, fg.manifold_muon])
def test_adam_and_muon_say_how_to_keep_steps_below_the_resolution(optimizer):
    params, spec, _ = problem(jnp.bfloat16, fg.Stiefel())
    advice = r"learning_rate=0\.007 .*0\.0078 apart: 'w' .*with_master_weights\(tx, spec\)"
    with pytest.warns(UserWarning, match=advice):
        optimizer(0.007, spec).init(params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer(0.008, spec).init(params)
        fg.with_master_weights(optimizer(0.007, spec), spec).init(params)


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    "manifold", [fg.Sphere(), fg.Oblique(), fg.Stiefel(), fg.Stiefel("qr")], ids=str
)
def test_weights_are_the_rounding_of_points_on_the_manifolds(dtype, manifold):
    params, spec, gradient = problem(dtype, manifold)
    tx = fg.fgsgd(1.0, spec, momentum=0.9, master_dtype=jnp.float32)
    found, state = run(tx, params, gradient, 20)
    for path in ("w", "bias"):
        assert found[path].dtype == dtype
        np.testing.assert_array_equal(found[path], state.master[path].astype(dtype))
    points = {path: state.master[path] for path in params}
    assert fg.residual(points, spec)["w"] < 2e-6


def test_entries_that_change_their_sign_are_rounded_once():
    # In bfloat16 the difference of 1 and −2⁻⁹·1.0078125 is not a number: it would be rounded twice.
    params = {"w": jnp.asarray([[1.0], [0.0]], jnp.bfloat16), "bias": jnp.ones(1, jnp.bfloat16)}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())))
    target = -(2.0**-9) * 1.0078125
    tx = fg.with_master_weights(fg.fgsgd(1.0, spec, euclidean="sgd"), spec)
    gradient = {"w": jnp.zeros((2, 1)), "bias": jnp.full(1, 1 - target)}
    updates, _ = tx.update(gradient, tx.init(params), params)
    assert float(optax.apply_updates(params, updates)["bias"][0]) == target


def test_leaves_of_the_master_dtype_have_no_master_weights():
    params, spec, gradient = problem(jnp.float32)
    mixed = params | {"bias": params["bias"].astype(jnp.bfloat16)}
    tx, plain = fg.fgsgd(0.1, spec, master_dtype=jnp.float32), fg.fgsgd(0.1, spec)
    state = tx.init(mixed)
    assert list(state.master) == ["bias"]
    updates, _ = tx.update(gradient, state, mixed)
    expected, _ = plain.update(gradient, plain.init(params), params)
    np.testing.assert_allclose(updates["w"], expected["w"], rtol=0, atol=1e-7)


@pytest.mark.sweep(fast=2)
@pytest.mark.parametrize(
    "make",
    [
        lambda spec: optax.chain(
            fg.project_to_tangent(spec),
            optax.scale_by_learning_rate(0.1),
            fg.retract_updates(spec),
        ),
        lambda spec: optax.MultiSteps(fg.fgsgd(0.1, spec), 1).gradient_transformation(),
        lambda spec: optax.apply_if_finite(fg.fgsgd(0.1, spec), 3),
        lambda spec: fg.fgsgd(0.1, spec, euclidean=optax.adam(1e-3)),
    ],
    ids=["links", "MultiSteps", "apply_if_finite", "partition"],
)
def test_master_weights_work_around_any_optimizer(make):
    params, spec, gradient = problem(jnp.bfloat16)
    tx = fg.with_master_weights(make(spec), spec)
    found, state = run(tx, params, gradient, 3)
    assert distance(found, params) > 0
    np.testing.assert_array_equal(found["w"], state.master["w"].astype(jnp.bfloat16))


def test_shapes_and_wrappers_around_master_weights():
    params, spec, gradient = problem(jnp.bfloat16)
    tx = optax.inject_hyperparams(fg.fgsgd)(0.1, spec, master_dtype="float32")
    updates, _ = tx.update(gradient, tx.init(params), params)
    plain = fg.fgsgd(0.1, spec, master_dtype=jnp.float32)
    expected, _ = plain.update(gradient, plain.init(params), params)
    np.testing.assert_allclose(updates["w"], expected["w"], rtol=0, atol=1e-6)
    with pytest.raises(TypeError, match='Write its name, "float32"'):
        optax.inject_hyperparams(fg.fgsgd)(0.1, spec, master_dtype=jnp.float32).init(params)
    shapes = jax.eval_shape(lambda tree: tree, params)
    of_shapes, of_values = plain.init(shapes), plain.init(params)
    assert jax.tree.map(jnp.shape, of_shapes) == jax.tree.map(jnp.shape, of_values)


def test_a_dtype_that_is_not_floating_is_refused():
    _, spec, _ = problem(jnp.float32)
    for dtype in (jnp.int32, bool):
        with pytest.raises(TypeError, match="floating-point"):
            fg.fgsgd(0.1, spec, master_dtype=dtype)


def test_weights_off_their_manifolds_are_refused():
    params, spec, _ = problem(jnp.bfloat16)
    with pytest.raises(ValueError, match="not on their manifolds"):
        fg.fgsgd(0.1, spec, master_dtype=jnp.float32).init(jax.tree.map(lambda x: 2 * x, params))


def _bfloat16():
    params = {"w": jax.random.normal(jax.random.key(0), (16, 8), jnp.bfloat16)}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Stiefel())))
    return fg.project(params, spec), spec


@pytest.mark.parametrize("make", [optax.sgd, optax.adam])
def test_master_weights_of_another_spec_are_refused_whatever_they_wrap(make):
    params, spec = _bfloat16()
    other = fg.collection(params, ("w", fg.pom("layer", fg.Stiefel())), seed=1)
    state = fg.with_master_weights(make(0.1), other).init(params)
    update = fg.with_master_weights(make(0.1), spec).update
    for call in (update, jax.jit(update)):
        with pytest.raises(ValueError, match="another spec"):
            call(params, state, params)


@pytest.mark.parametrize("change", ["another point", "one entry"])
def test_parameters_that_something_else_changed_are_not_undone_in_silence(change):
    params, spec = _bfloat16()
    tx = fg.fgsgd(0.1, spec, master_dtype="float32")
    updates, state = tx.update(params, tx.init(params), params)
    params = optax.apply_updates(params, updates)
    tx.update(params, state, params)
    w = params["w"]
    changed = {"w": -w if change == "another point" else w.at[0, 0].add(0.1)}
    with pytest.raises(ValueError, match="'w' was changed by something else"):
        tx.update(params, state, changed)

"""`apply_gradients` is `update` and `optax.apply_updates` in one call, for every optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg
from fgsgd_jax.transforms import WritesWeights

OPTIMIZERS = {
    "fgsgd": lambda spec: fg.fgsgd(0.1, spec, momentum=0.9),
    "fgsgd, euclidean": lambda spec: fg.fgsgd(0.1, spec, euclidean=optax.adamw(1e-3)),
    "fgsgd, decay": lambda spec: fg.fgsgd(0.1, spec, weight_decay=0.1),
    "riemannian_adam": lambda spec: fg.riemannian_adam(0.1, spec),
    "riemannian_adam, euclidean": lambda spec: fg.riemannian_adam(
        0.1, spec, euclidean=optax.adamw(1e-3)
    ),
    "master weights": lambda spec: fg.fgsgd(0.1, spec, master_dtype="float32"),
    "rho": lambda spec: fg.fgsgd(0.1, spec, rho="travelled"),
    "chain": lambda spec: optax.chain(fg.rsgd(0.1, spec), fg.keep_on_manifolds(spec)),
    "inject_hyperparams": lambda spec: optax.inject_hyperparams(fg.fgsgd)(0.1, spec),
    "manifold_muon": lambda spec: fg.manifold_muon(0.1, spec),
    "optax.sgd": lambda spec: optax.sgd(0.1),
}
WRITE = {name for name in OPTIMIZERS if name.startswith(("fgsgd", "riemannian_adam"))}


def problem(dtype="float32"):
    params = {"w": jax.random.normal(jax.random.key(0), (3, 3, 2, 3), dtype), "b": jnp.ones(3)}
    mixture = fg.pom("PO", (fg.Sphere(), fg.Stiefel()), scale=0.5)
    spec = fg.collection(params, ("w", mixture), default=None)
    params = fg.project(params, spec)
    return params, spec, jax.tree.map(lambda leaf: jnp.cos(100 * leaf), params)


@pytest.mark.sweep(fast=3)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_the_two_calls_in_one(name):
    params, spec, gradients = problem()
    tx = OPTIMIZERS[name](spec)
    state = tx.init(params)

    def in_two_calls(state, params):
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    def in_one(state, params):
        return fg.apply_gradients(tx, gradients, state, params)

    one, other = (jax.jit(step)(state, params) for step in (in_one, in_two_calls))
    assert isinstance(tx, WritesWeights) == (name in WRITE)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert not np.array_equal(one[0]["w"], params["w"])


def test_bfloat16_weights_keep_their_dtype_and_leaves_may_be_none():
    params, spec, gradients = problem("bfloat16")
    params, gradients = params | {"none": None}, gradients | {"none": None}
    tx = fg.fgsgd(0.1, spec)
    moved, _ = fg.apply_gradients(tx, gradients, tx.init(params), params)
    assert moved["w"].dtype == "bfloat16"
    assert moved["none"] is None


def test_extra_arguments_are_passed_on():
    params, spec, gradients = problem()
    tx = optax.chain(optax.contrib.reduce_on_plateau(), fg.fgsgd(0.1, spec))
    _, state = fg.apply_gradients(tx, gradients, tx.init(params), params, value=2.5)
    assert float(state[0].best_value) == 2.5


def test_derivatives_pass_through_the_step():
    params, spec, gradients = problem()
    tx = fg.fgsgd(0.1, spec)
    state = tx.init(params)

    @jax.jit
    def moved(size):
        scaled = jax.tree.map(lambda leaf: size * leaf, gradients)
        return fg.apply_gradients(tx, scaled, state, params)[0]["w"]

    of_weight = jax.jvp(moved, (0.5,), (1.0,))[1]
    h = 1e-2
    np.testing.assert_allclose(of_weight, (moved(0.5 + h) - moved(0.5 - h)) / (2 * h), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("retraction", ["polar", "cayley", "qr"])
def test_derivatives_pass_backward_through_mixtures(retraction):
    params = {"w": jax.random.normal(jax.random.key(3), (3, 3, 2, 3))}
    mixture = fg.Sphere(), fg.Oblique(), fg.Stiefel(retraction=retraction)
    spec = fg.collection(params, ("w", fg.pom("PO", mixture)))
    params = fg.project(params, spec)
    tx = fg.fgsgd(0.3, spec)
    state = tx.init(params)

    def height(size):
        gradients = jax.tree.map(lambda leaf: size * jnp.cos(100 * leaf), params)
        return jnp.sum(jnp.sin(3 * fg.apply_gradients(tx, gradients, state, params)[0]["w"]))

    height = jax.jit(height)
    h = 1e-2
    expected = (height(0.5 + h) - height(0.5 - h)) / (2 * h)
    np.testing.assert_allclose(jax.jit(jax.grad(height))(0.5), expected, rtol=2e-2)


def test_euclidean_leaves_may_have_an_optimizer_on_manifolds_that_changes_its_updates():
    params, _, gradients = problem()
    params |= {"d": jnp.eye(3)}
    gradients |= {"d": jnp.ones((3, 3))}
    of_w = fg.collection(params, ("w", fg.pom("PO", fg.Stiefel())), default=None)
    of_d = fg.collection(params, ("d", fg.pom("layer", fg.Stiefel())), default=None)
    params = fg.project(params, of_w)
    tx = fg.fgsgd(0.1, of_w, euclidean=optax.chain(fg.rsgd(0.1, of_d), optax.scale(0.5)))
    state = tx.init(params)
    updates, _ = tx.update(gradients, state, params)
    moved, _ = fg.apply_gradients(tx, gradients, state, params)
    jax.tree.map(np.testing.assert_array_equal, moved, optax.apply_updates(params, updates))


@pytest.mark.parametrize("kind", ["fgsgd", "optax"])
def test_arguments_in_another_order_or_trees_that_do_not_match_are_named(kind):
    params, spec, gradients = problem()
    tx = fg.fgsgd(0.1, spec, momentum=0.9) if kind == "fgsgd" else optax.sgd(0.1, momentum=0.9)
    state = tx.init(params)
    order = r"apply_gradients\(tx, gradients, state, params\)"
    with pytest.raises(TypeError, match=f"`tx` in {order} must be an Optax transformation"):
        fg.apply_gradients(gradients, state, params, tx)
    with pytest.raises(ValueError, match=f"gradients have no leaf .*the order is {order}"):
        fg.apply_gradients(tx, gradients, params, state)
    with pytest.raises(ValueError, match="gradients have no leaf 'b'"):
        fg.apply_gradients(tx, {"w": gradients["w"]}, state, params)
    with pytest.raises(ValueError, match="gradient of 'b' is None"):
        fg.apply_gradients(tx, gradients | {"b": None}, state, params)
    with pytest.raises(ValueError, match=rf"'b' has shape \(1,\).* shape \(3,\).*{order}"):
        fg.apply_gradients(tx, gradients | {"b": jnp.ones(1)}, state, params)


@pytest.mark.parametrize("change", [{"b": None}, {"b": jnp.ones(1)}, {"c": jnp.ones(3)}])
def test_gradients_that_do_not_match_are_told_in_the_words_of_update(change):
    params, spec, gradients = problem()
    tx, wrong = fg.fgsgd(0.1, spec, momentum=0.9), gradients | change
    if "c" in change:
        del wrong["b"]
    state, told = tx.init(params), []
    for call in (tx.update, lambda *args: fg.apply_gradients(tx, *args)):
        with pytest.raises(ValueError, match="'b'") as raised:
            call(wrong, state, params)
        told.append(str(raised.value))
    order = "(gradients, state, params)", "(tx, gradients, state, params)"
    assert told[0].replace("update" + order[0], "apply_gradients" + order[1]) == told[1]


def test_what_is_wrong_is_said_as_by_update():
    params, spec, gradients = problem()
    tx = fg.fgsgd(0.1, spec)
    off = params | {"w": 2 * params["w"]}
    with pytest.raises(ValueError, match="not on their manifolds"):
        fg.apply_gradients(tx, gradients, tx.init(params), off)

"""Two optimizers in one chain, of which the second takes finished updates for gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg
from fgsgd_jax import checks

PARAMS = {"w": jax.random.normal(jax.random.key(0), (5, 3)), "v": jnp.eye(4, 2), "b": jnp.ones(3)}
STIEFEL = fg.pom("layer", fg.Stiefel())
SPEC = fg.collection(PARAMS, ("w", STIEFEL), ("v", STIEFEL), default=None)
PARAMS = fg.project(PARAMS, SPEC)
GRADIENT = jax.tree.map(lambda leaf: jnp.cos(5 * leaf), PARAMS)
RATE = optax.scale_by_learning_rate(0.1)
OPTIMIZERS = {
    "fgsgd": fg.fgsgd(0.1, SPEC),
    "fgsgd, own Euclidean": fg.fgsgd(0.1, SPEC, euclidean=optax.adam(1e-3)),
    "links": fg.fgsgd(0.1, SPEC, rho="travelled"),
    "rsgd, momentum": fg.rsgd(0.1, SPEC, momentum=0.9),
    "riemannian_adam": fg.riemannian_adam(0.1, SPEC),
    "manifold_muon": fg.manifold_muon(0.1, SPEC),
    "rdog": fg.rdog(SPEC),
    "on_manifold": fg.on_manifold(optax.adam(0.1), SPEC),
    "injected": optax.inject_hyperparams(fg.rsgd)(0.1, SPEC),
    "landing": optax.chain(fg.project_to_tangent(SPEC), RATE, fg.land_updates(SPEC)),
    "master weights": fg.with_master_weights(fg.rsgd(0.1, SPEC), SPEC),
    "kept": optax.chain(optax.sgd(0.1), fg.keep_on_manifolds(SPEC)),
}
TWO_STEPS = r"'v' gets two steps.* update of another optimizer.*optax\.partition"
LINKS = {
    "project_to_tangent": fg.project_to_tangent(SPEC),
    "retract_updates": fg.retract_updates(SPEC),
    "land_updates": fg.land_updates(SPEC),
    "trace_on_manifold": fg.trace_on_manifold(SPEC, 0.9),
    "scale_by_fgsgd": fg.scale_by_fgsgd(SPEC),
    "scale_by_riemannian_adam": fg.scale_by_riemannian_adam(SPEC),
    "scale_by_manifold_muon": fg.scale_by_manifold_muon(SPEC),
    "scale_by_rdog": fg.scale_by_rdog(SPEC),
}


def first_update(tx, how="values"):
    state = tx.init(PARAMS)
    if how == "shapes":  # as in a jitted function
        return jax.eval_shape(tx.update, GRADIENT, state, PARAMS)[0]
    return tx.update(GRADIENT, state, PARAMS)[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_second_optimizer_in_a_chain_is_refused_at_the_first_update(name):
    tx, other = OPTIMIZERS[name], OPTIMIZERS["rsgd, momentum"]
    with pytest.raises(ValueError, match=TWO_STEPS):
        first_update(optax.chain(tx, other), "shapes")
    if name != "kept":  # which takes any updates
        with pytest.raises(ValueError, match=TWO_STEPS):
            first_update(optax.chain(other, tx), "shapes")


@pytest.mark.parametrize("name", ["fgsgd", "links"])
def test_a_second_optimizer_is_refused_outside_of_jitted_functions_as_well(name):
    with pytest.raises(ValueError, match=TWO_STEPS):
        first_update(optax.chain(OPTIMIZERS[name], OPTIMIZERS[name]))


@pytest.mark.parametrize("link", LINKS)
def test_a_link_after_a_finished_update_is_refused(link):
    with pytest.raises(ValueError, match=TWO_STEPS):
        first_update(optax.chain(OPTIMIZERS["fgsgd"], LINKS[link]), "shapes")


def test_the_second_one_is_refused_where_the_spec_of_the_first_has_other_weights():
    of_w, of_v = (fg.collection(PARAMS, (path, STIEFEL), default=None) for path in "wv")
    tx = optax.chain(fg.rsgd(0.1, of_w), fg.rsgd(0.1, of_v))
    with pytest.raises(ValueError, match=r"'w' gets two steps"):
        first_update(tx, "shapes")


def test_what_is_changed_in_between_is_left_to_the_check_of_optimizers():
    tx = optax.chain(OPTIMIZERS["fgsgd"], optax.scale(0.5), OPTIMIZERS["fgsgd"])
    report = checks.check_optimizer(tx, PARAMS, laws="the first step goes downhill")
    assert not report.passed


RIGHT = {
    "averaged": (OPTIMIZERS["fgsgd"], fg.average_on_manifolds(SPEC)),
    "kept": (OPTIMIZERS["fgsgd"], optax.ema(0.9), fg.keep_on_manifolds(SPEC)),
    "kept twice": (OPTIMIZERS["kept"], fg.keep_on_manifolds(SPEC)),
    "each its own weights": (
        optax.masked(fg.rsgd(0.1, SPEC), {"w": True, "v": False, "b": False}),
        optax.masked(fg.rsgd(0.1, SPEC), {"w": False, "v": True, "b": False}),
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_may_follow_a_finished_update_is_accepted(name):
    moved = optax.apply_updates(PARAMS, first_update(optax.chain(*RIGHT[name])))
    x = np.asarray(moved["w"], np.float64)
    np.testing.assert_allclose(x.T @ x, np.eye(3), atol=1e-5)
    assert not np.allclose(x, PARAMS["w"], atol=1e-3)


@pytest.mark.parametrize("links", [True, False])
def test_a_gradient_may_be_used_again_and_updates_elsewhere(links):
    tx = OPTIMIZERS["links" if links else "fgsgd"]
    chain = optax.chain(fg.project_to_tangent(SPEC), fg.retract_updates(SPEC))  # b is passed on
    for _ in range(2):
        first_update(chain)
        updates = first_update(tx)
    scaled = jax.tree.map(lambda leaf: 2 * leaf, updates)
    tx.update(scaled, tx.init(PARAMS), PARAMS)  # no longer an update of an optimizer

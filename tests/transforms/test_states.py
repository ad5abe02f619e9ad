"""The state of a link belongs to its spec: another one is named in one sentence, at no cost."""

import pickle

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg
from fgsgd_jax.transforms import FusedState, SpecState

MIXED = (fg.Sphere(), fg.Oblique(), fg.Stiefel())
SHAPE = (3, 3, 2, 4)


def spec_of(seed=0, rule=None, shape=SHAPE):
    params = {"w": jnp.ones(shape), "bias": jnp.ones(4)}
    return fg.collection(params, ("w", rule or fg.pom("PIO", MIXED)), seed=seed)


SPEC = spec_of()
PARAMS = fg.project({"w": jax.random.normal(jax.random.key(0), SHAPE), "bias": jnp.ones(4)}, SPEC)
GRADIENT = jax.tree.map(lambda leaf: 0.1 * leaf[::-1], PARAMS)

MAKERS = {
    "fgsgd": lambda spec: fg.fgsgd(0.1, spec, momentum=0.9),
    "rsgd": lambda spec: fg.rsgd(0.1, spec),
    "project_to_tangent": fg.project_to_tangent,
    "trace_on_manifold": lambda spec: fg.trace_on_manifold(spec, 0.9),
    "scale_by_fgsgd": fg.scale_by_fgsgd,
    "retract_updates": fg.retract_updates,
    "scale_by_riemannian_adam": fg.scale_by_riemannian_adam,
    "scale_by_manifold_muon": fg.scale_by_manifold_muon,
    "keep_on_manifolds": fg.keep_on_manifolds,
    "average_on_manifolds": fg.average_on_manifolds,
    "on_manifold": lambda spec: fg.on_manifold(optax.sgd(0.1), spec),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    "other",
    [
        spec_of(seed=1),
        spec_of(rule=fg.pom("PO", MIXED)),
        spec_of(rule=fg.pom("PIO", MIXED[:2])),
        spec_of(rule=fg.pom("PIO", MIXED, scale=3.0)),
        spec_of(rule=fg.pom("PIO", MIXED, scale="variance")),
    ],
    ids=["seed", "scheme", "manifolds", "scale", "variance"],
)
def test_a_state_of_another_spec_is_refused(name, other):
    state = MAKERS[name](other).init(fg.project(PARAMS, other))
    update = MAKERS[name](SPEC).update
    for call in (update, jax.jit(update)):
        with pytest.raises(
            ValueError, match=f"another spec.* {other.fingerprint}.* {SPEC.fingerprint}"
        ):
            call(GRADIENT, state, PARAMS)


@pytest.mark.parametrize("restore", ["flax", "leaves"])
def test_a_restored_state_of_another_spec_is_refused(restore):
    saved = fg.fgsgd(0.1, spec_of(seed=1)).init(fg.project(PARAMS, spec_of(seed=1)))
    tx = fg.fgsgd(0.1, SPEC)
    target = tx.init(PARAMS)
    if restore == "flax":  # by name
        with pytest.raises(ValueError, match=str(SPEC.fingerprint)):
            flax.serialization.from_bytes(target, flax.serialization.to_bytes(saved))
    else:
        state = jax.tree.unflatten(jax.tree.structure(target), jax.tree.leaves(saved))
        with pytest.raises(ValueError, match="another spec"):
            tx.update(GRADIENT, state, PARAMS)


OTHERS = {
    "sgd": optax.sgd(0.1),
    "sgd with momentum": optax.sgd(0.1, momentum=0.9),
    "adam": optax.adam(0.1),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("other", OTHERS)
def test_the_state_of_another_optimizer_is_refused(name, other):
    with pytest.raises(TypeError, match="state of another optimizer"):
        MAKERS[name](SPEC).update(GRADIENT, OTHERS[other].init(PARAMS), PARAMS)


def test_the_state_of_another_setting_of_fgsgd_is_refused():
    partitioned = fg.fgsgd(0.1, SPEC, euclidean=optax.adam(0.1))
    plain = fg.fgsgd(0.1, SPEC)
    for tx, other in ((partitioned, plain), (plain, partitioned)):
        with pytest.raises(TypeError, match="state of another optimizer"):
            tx.update(GRADIENT, other.init(PARAMS), PARAMS)
    with pytest.raises(TypeError, match="MasterState"):
        fg.with_master_weights(plain, SPEC).update(GRADIENT, plain.init(PARAMS), PARAMS)


@pytest.mark.parametrize("fingerprint", [None, jnp.uint32(SPEC.fingerprint)])
def test_a_state_saved_by_an_older_version_is_refused(fingerprint):
    tx = fg.fgsgd(0.1, SPEC)
    state = tx.init(PARAMS)
    old = state._replace(spec=state.spec._replace(fingerprint=fingerprint))
    with pytest.raises(ValueError, match="older version"):
        tx.update(GRADIENT, pickle.loads(pickle.dumps(old)), PARAMS)


def test_a_state_of_a_spec_built_again_is_accepted():
    tx = fg.fgsgd(0.1, spec_of(), momentum=0.9)
    state = fg.fgsgd(0.1, SPEC, momentum=0.9).init(PARAMS)
    expected, _ = fg.fgsgd(0.1, SPEC, momentum=0.9).update(GRADIENT, state, PARAMS)
    found, _ = tx.update(GRADIENT, state, PARAMS)
    np.testing.assert_array_equal(found["w"], expected["w"])


def test_the_check_adds_nothing_to_a_compiled_update():
    tx = fg.fgsgd(0.1, SPEC)
    state = tx.init(PARAMS)
    unlike = {f"spec_{SPEC.fingerprint}": jnp.zeros([], jnp.uint32)}
    without = state._replace(spec=state.spec._replace(fingerprint=unlike))
    lowered = [jax.jit(tx.update).lower(GRADIENT, given, PARAMS) for given in (state, without)]
    assert lowered[0].as_text() == lowered[1].as_text()


def fingerprints(state):
    is_part = lambda node: isinstance(node, SpecState)  # noqa: E731
    parts = jax.tree.leaves(state, is_leaf=is_part)
    return [part.fingerprint for part in parts if is_part(part)]


@pytest.mark.sweep(fast=2)
@pytest.mark.parametrize("name", MAKERS)
def test_the_fingerprint_is_a_scalar_that_an_update_keeps(name):
    tx = MAKERS[name](SPEC)
    state = tx.init(PARAMS)
    for _ in range(2):
        ((key, found),) = (pair for part in fingerprints(state) for pair in part.items())
        assert int(key.removeprefix("spec_")) == SPEC.fingerprint
        assert found.dtype == jnp.uint32
        assert found.shape == ()
        assert int(found) == SPEC.fingerprint
        _, state = jax.jit(tx.update)(GRADIENT, state, PARAMS)


@pytest.mark.slow
def test_states_work_under_scan_donation_vmap_and_multi_steps():
    tx = fg.fgsgd(0.1, SPEC, momentum=0.9)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(GRADIENT, state, params)
        return (optax.apply_updates(params, updates), state), None

    start = jax.tree.map(jnp.copy, (PARAMS, tx.init(PARAMS)))
    donating = jax.jit(lambda carry: jax.lax.scan(step, carry, None, 2)[0], donate_argnums=0)
    scanned, state = donating(start)
    updates, _ = tx.update(GRADIENT, state, scanned)  # values are known here
    assert np.all(np.isfinite(updates["w"]))

    several = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), PARAMS)
    states = jax.vmap(tx.init)(several)
    gradients = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), GRADIENT)
    batched, states = jax.vmap(tx.update)(gradients, states, several)
    assert isinstance(states, FusedState)
    single, _ = tx.update(GRADIENT, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(batched["w"][1], single["w"], rtol=0, atol=1e-6)

    steps = optax.MultiSteps(tx, 2)
    state = steps.init(PARAMS)
    for _ in range(2):
        updates, state = steps.update(GRADIENT, state, PARAMS)
    np.testing.assert_allclose(updates["w"], single["w"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda spec: fg.fgsgd(0.1, spec, momentum=0.9),
        lambda spec: fg.riemannian_adam(0.1, spec),
        lambda spec: fg.manifold_muon(0.1, spec),
        lambda spec: fg.scale_by_rdog(spec),
        lambda spec: fg.on_manifold(optax.adam(0.1), spec),
        lambda spec: fg.keep_on_manifolds(spec),
        lambda spec: fg.average_on_manifolds(spec),
    ],
)
def test_a_state_has_the_dtype_of_its_weights_where_the_default_is_float64(optimizer):
    with jax.enable_x64(True):
        params = {"w": jnp.eye(4, 2, dtype=jnp.float32)}
        spec = fg.collection(params, ("w", fg.pom("layer", fg.Stiefel())), scale=1.0)
        state = optimizer(spec).init(params)
        floats = [leaf.dtype for leaf in jax.tree.leaves(state) if leaf.dtype.kind == "f"]
    assert floats
    assert set(floats) == {jnp.dtype("float32")}


@pytest.mark.parametrize("momenta", [(None, 0.9), (0.9, None)])
def test_a_state_with_momentum_is_not_one_without(momenta):
    made, used = (fg.fgsgd(0.1, SPEC, momentum=momentum) for momentum in momenta)
    with pytest.raises(ValueError, match=r"state of an optimizer with(out)? momentum"):
        used.update(GRADIENT, made.init(PARAMS), PARAMS)


# --- weights that are not those of the last update ------------------------------------------------

OPTIMIZERS = {name: MAKERS[name] for name in ("fgsgd", "rsgd", "on_manifold")} | {
    "riemannian_adam": lambda spec: fg.riemannian_adam(0.1, spec),
    "a moment per entry": lambda spec: fg.riemannian_adam(0.1, spec, moment="entry"),
    "manifold_muon": lambda spec: fg.manifold_muon(0.1, spec),
    "rdog": lambda spec: fg.rdog(spec),
}


def test_the_scales_of_initial_weights_may_be_measured_again():
    tree = {"w": PARAMS["w"] * jnp.arange(1.0, 5.0), "bias": PARAMS["bias"]}
    rule = ("w", fg.pom("PIO", MIXED, scale="initial"))
    first, again = (fg.collection(p, rule) for p in (tree, jax.tree.map(lambda a: 2 * a, tree)))
    assert first != again
    assert first.fingerprint == again.fingerprint


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_that_something_else_moved_are_refused(name):
    tx = OPTIMIZERS[name](SPEC)
    _, state = tx.update(GRADIENT, tx.init(PARAMS), PARAMS)
    moved = PARAMS | {"w": 0.9 * PARAMS["w"]}
    with pytest.raises(ValueError, match=r"'w', with a residual of .*something else moved them"):
        tx.update(GRADIENT, state, moved)
    jax.jit(tx.update)(GRADIENT, state, moved)  # where values are unknown


def test_weights_averaged_between_updates_are_refused():
    tx, params = fg.rsgd(1.0, SPEC), PARAMS
    state = tx.init(params)

    def steps(params, state):
        for _ in range(3):
            updates, state = tx.update(jax.tree.map(lambda g: 10 * g, GRADIENT), state, params)
            new = optax.apply_updates(params, updates)
            params = jax.tree.map(lambda a, b: (a + b) / 2, params, new)

    with pytest.raises(ValueError, match=r"not on their manifolds.* an average of weights"):
        steps(params, state)


def test_weights_that_are_nan_stay_so():
    tx = fg.rsgd(0.1, SPEC)
    state = tx.init(PARAMS)
    updates, _ = tx.update(GRADIENT, state, PARAMS | {"w": PARAMS["w"].at[0, 0, 0, 0].set(jnp.nan)})
    assert bool(jnp.isnan(updates["w"][0, 0, 0, 0]))

"""Steps from weights that are not on their manifolds, and the check for such weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance_helpers import by_kind, residual

import fgsgd_jax as fg

MANIFOLDS = {
    "sphere": (fg.Sphere(),),
    "oblique": (fg.Oblique(),),
    "stiefel": (fg.Stiefel(),),
    "qr": (fg.Stiefel("qr"),),
    "cayley": (fg.Stiefel("cayley"),),
    "mixture": (fg.Sphere(), fg.Oblique(), fg.Stiefel()),
}
NAMED = ("sphere", "oblique", "stiefel")
SIZES = {"3×3": (3, 3, 2, 3), "5×3": (5, 3, 2, 3), "2×4": (2, 4, 2, 3)}
NAMES = {"qr": "stiefel", "cayley": "stiefel"}
PARAMS = {
    f"{name} {size}": np.float32(np.random.default_rng(0).normal(size=SIZES[size]))
    for name in MANIFOLDS
    for size in SIZES
    if size != "2×4" or name == "stiefel"  # of the others only rows and columns change places
}
SPEC = fg.collection(
    PARAMS, *((f"{name} *", fg.pom("PO", manifolds)) for name, manifolds in MANIFOLDS.items())
)


def chain(rate: float) -> optax.GradientTransformation:
    return optax.chain(
        fg.project_to_tangent(SPEC),
        fg.scale_by_fgsgd(SPEC),
        optax.scale_by_learning_rate(rate),
        fg.retract_updates(SPEC),
    )


def points(weight) -> np.ndarray:
    """The components of a weight, `(components, rows, columns)`."""
    return np.moveaxis(np.asarray(weight, np.float64), (0, 1), (-2, -1))


def residuals(path: str, weight) -> np.ndarray:
    """How far the components miss the equations of their manifolds, by NumPy."""
    name = path.split()[0]
    names = ("sphere", "oblique", "stiefel") if name == "mixture" else (NAMES.get(name, name),)
    x = points(weight)
    ids = SPEC.manifold_ids().get(path)
    return by_kind(residual, names, None if ids is None else np.asarray(ids), x)


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda rate: fg.fgsgd(rate, SPEC), chain], ids=["fused", "chain"])
def test_steps_from_weights_off_their_manifolds_end_on_them_or_are_nan(make):
    tx = make(0.1)
    params, state = PARAMS, jax.jit(tx.init)(PARAMS)  # where values are unknown
    update = jax.jit(tx.update)
    gradients = {path: np.float32(np.cos(7 * weight)) for path, weight in PARAMS.items()}
    for _ in range(3):
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        for path, weight in params.items():
            x = points(weight)
            nan = np.isnan(x).all((-2, -1))
            assert np.array_equal(nan, np.isnan(x).any((-2, -1))), path
            assert np.all(residuals(path, weight)[~nan] < 1e-5), path
            if "sphere" in path or "oblique" in path or path == "stiefel 5×3":
                assert not nan.any(), path


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda rate: fg.fgsgd(rate, SPEC), chain], ids=["fused", "chain"])
def test_weights_that_are_slightly_off_come_back(make):
    params = jax.tree.map(lambda weight: 1.01 * weight, fg.project(PARAMS, SPEC))
    tx = make(0.1)
    state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
    gradients = {path: np.float32(np.cos(7 * weight)) for path, weight in PARAMS.items()}
    for allowed in (1e-3, 1e-5):  # ¾·0.02²·√3 after one Newton-Schulz step
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        for path, weight in params.items():
            assert np.max(residuals(path, weight)) < allowed, path


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_long_gradients_lead_weights_far_off_onto_their_manifolds(momentum):
    weight = np.float32(10 * np.random.default_rng(0).normal(size=(16, 8)))
    params = {"sphere w": weight, "oblique w": weight, "stiefel w": weight, "at rest": weight}
    rules = [
        (f"{name} w", fg.pom("layer", MANIFOLDS[name][0], component="matrix")) for name in NAMED
    ]
    spec = fg.collection(params, *rules, ("at rest", fg.pom("layer", fg.Stiefel())))
    gradients = {path: np.full((16, 8), path != "at rest", np.float32) for path in params}
    tx = fg.fgsgd(0.1, spec, momentum=momentum)
    state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
    for size in (1e6, 1e9, 1e16):  # squares of steps underflow; at last τ is infinite
        scaled = jax.tree.map(lambda g, size=size: np.float32(size) * g, gradients)
        updates, _ = update(scaled, state, params)
        moved = optax.apply_updates(params, updates)
        for name in NAMED:
            assert residual(name, np.asarray(moved[f"{name} w"], np.float64)) < 1e-2, name
        assert np.array_equal(moved["at rest"], weight)


# --- tolerances ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((512, 512), "bfloat16"), ((256, 256), "float16"), ((400, 420), "bfloat16")],
)
def test_what_project_returns_is_accepted_in_every_dtype_and_size(shape, dtype):
    params = {"w": jax.random.normal(jax.random.key(0), shape, dtype)}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Stiefel())))
    params = fg.project(params, spec)
    tx = fg.fgsgd(0.1, spec)
    tx.init(params)
    for scale in (0.9, 1.1):
        with pytest.raises(ValueError, match="not on their manifolds"):
            tx.init(jax.tree.map(lambda leaf, scale=scale: leaf * scale, params))


# --- the check on request ------------------------------------------------------------------------


def small():
    params = {
        "conv": jax.random.normal(jax.random.key(0), (3, 3, 2, 4)),
        "dense": jax.random.normal(jax.random.key(1), (6, 4)),
        "bias": jnp.ones(4),
    }
    spec = fg.collection(
        params,
        ("conv", fg.pom("PO", fg.Sphere())),
        ("dense", fg.pom("layer", fg.Stiefel())),
        scale=0.5,
    )
    return fg.project(params, spec), spec


@pytest.mark.slow
def test_a_checked_optimizer_takes_the_steps_of_the_optimizer():
    params, spec = small()
    tx = fg.fgsgd(0.1, spec, momentum=0.9)
    guarded = fg.checked(tx, spec)
    state = fg.set_feature_std(tx.init(params), {"conv": np.array([2.0, 3.0])})
    assert jax.tree.structure(guarded.init(params)) == jax.tree.structure(state)
    plain = checked = (params, state)
    for step in range(3):  # across a change of the scale, eagerly and jitted
        update = guarded.update if step == 1 else jax.jit(guarded.update)
        updates, state = update(checked[0], checked[1], checked[0])
        checked = optax.apply_updates(checked[0], updates), state
        updates, state = jax.jit(tx.update)(plain[0], plain[1], plain[0])
        plain = optax.apply_updates(plain[0], updates), state
        for one, other in zip(*map(jax.tree.leaves, (checked, plain)), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("path", ["conv", "dense"])
def test_a_checked_optimizer_refuses_weights_that_were_moved(path):
    params, spec = small()
    tx = fg.checked(fg.fgsgd(0.1, spec), spec)
    state, moved = tx.init(params), params | {path: 1.1 * params[path]}
    with pytest.raises(ValueError, match=f"not on their manifolds.*'{path}'"):
        tx.update(params, state, moved)
    updates, _ = jax.jit(tx.update)(params, state, moved)
    for other, update in updates.items():
        assert np.all(np.isnan(update)) if other == path else np.all(np.isfinite(update))


def test_a_checked_optimizer_needs_params_and_a_collection():
    params, spec = small()
    tx = fg.checked(fg.fgsgd(0.1, spec), spec)
    with pytest.raises(ValueError, match="present weights"):
        tx.update(params, tx.init(params))
    with pytest.raises(TypeError, match="Collection"):
        fg.checked(fg.fgsgd(0.1, spec), params)  # pyright: ignore[reportArgumentType]


def two_weights():
    params = {"w": jax.random.normal(jax.random.key(0), (6, 3)), "b": jnp.zeros(3)}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Stiefel())), default=None)
    return params, spec


def test_averages_before_the_step_are_refused():
    params, spec = two_weights()
    params = fg.project(params, spec)
    gradients = jax.tree.map(jnp.ones_like, params)
    averaged, step = fg.average_on_manifolds(spec), fg.rsgd(0.1, spec)
    wrong, right = optax.chain(averaged, step), optax.chain(step, averaged)
    right.update(gradients, right.init(params), params)
    with pytest.raises(ValueError, match="it comes behind all that changes the step"):
        wrong.update(gradients, wrong.init(params), params)


def test_a_chain_without_its_last_link_is_refused():
    params, spec = two_weights()
    tx = optax.chain(fg.project_to_tangent(spec), optax.scale_by_learning_rate(0.05))
    with pytest.raises(ValueError, match=r"Move them there first.*project\(params, spec\)"):
        tx.init(params)
    params = fg.project(params, spec)
    gradients = jax.tree.map(jnp.ones_like, params)
    updates, state = tx.update(gradients, tx.init(params), params)
    params = optax.apply_updates(params, updates)
    with pytest.raises(ValueError, match=r"a chain lacks retract_updates\(spec\) at its end"):
        tx.update(gradients, state, params)


def test_gradients_in_the_place_of_weights_are_told_the_order():
    params, spec = two_weights()
    params = fg.project(params, spec)
    gradients, tx = jax.tree.map(jnp.ones_like, params), fg.fgsgd(0.1, spec)
    with pytest.raises(ValueError, match=r"the order is update\(gradients, state, params\)"):
        tx.update(params, tx.init(params), gradients)


def test_shapes_without_values_cannot_be_projected():
    params, spec = two_weights()
    with pytest.raises(TypeError, match="is a shape without values"):
        fg.project(jax.eval_shape(lambda: params), spec)

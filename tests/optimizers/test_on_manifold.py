"""`on_manifold` follows its formulas, works with Optax, and refuses what cannot work."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance_helpers import (
    by_kind,
    from_slices,
    nearest,
    random_like,
    tangent,
    to_slices,
    types_of,
)

import fgsgd_jax as fg

SPHERE, OBLIQUE, STIEFEL = fg.Sphere(), fg.Oblique(), fg.Stiefel()
NAMES = ("sphere", "oblique", "stiefel")
R = {"sphere": 1.0, "oblique": np.sqrt(3), "stiefel": np.sqrt(3)}  # norms of 3 × 3 points


@functools.cache
def problem(dtype="float32"):
    """Slices on three manifolds at scale 1, a matrix on one at scale 2, and a Euclidean leaf."""
    params = {
        "conv": jnp.ones((3, 3, 2, 3), dtype),
        "head": jnp.ones((5, 3), dtype),
        "bias": jnp.ones((3,), dtype),
    }
    spec = fg.collection(
        params,
        ("conv", fg.pom("PIO", (SPHERE, OBLIQUE, STIEFEL), groups=2, scale=1.0)),
        ("head", fg.pom("layer", STIEFEL, component="matrix", scale=2.0)),
        default=None,
    )
    return fg.project(random_like(params, seed=0), spec), spec


def dimension_numbers(params):
    axes = {"conv": (0, 1), "head": (0, 1)}
    number = lambda a: optax.contrib.MuonDimensionNumbers(*a) if a else None  # noqa: E731
    return {path: number(axes.get(path)) for path in params}


class Kronecker(NamedTuple):
    left: jax.Array
    right: jax.Array


def scale_by_kronecker():
    """L^−¼ g R^−¼ with L = Σggᵀ, R = Σgᵀg over leading axes, as Shampoo and SOAP precondition."""

    def root(a):
        values, vectors = jnp.linalg.eigh(a + 1e-2 * jnp.eye(len(a)))
        return (vectors * values**-0.25) @ vectors.T

    def matrix(g):
        return g.reshape(g.shape[0], -1)

    def init(params):
        return jax.tree.map(
            lambda p: Kronecker(*(jnp.zeros((n, n)) for n in matrix(p).shape)), params
        )

    def update(updates, state, params=None):
        del params

        def new(g, s):
            return Kronecker(s.left + matrix(g) @ matrix(g).T, s.right + matrix(g).T @ matrix(g))

        state = jax.tree.map(new, updates, state)
        step = lambda g, s: (root(s.left) @ matrix(g) @ root(s.right)).reshape(g.shape)  # noqa: E731
        return jax.tree.map(step, updates, state), state

    return optax.GradientTransformation(init, update)


# Optimizers whose steps do not depend on the weights.
INDEPENDENT = {
    "adam": lambda rate: optax.adam(rate, eps=1e-20),
    "lion": lambda rate: optax.lion(rate, weight_decay=0.0),
    "muon": lambda rate: optax.contrib.muon(rate, muon_weight_dimension_numbers=dimension_numbers),
    "kronecker": lambda rate: optax.chain(scale_by_kronecker(), optax.scale(-rate)),
    "ademamix": optax.contrib.ademamix,
}
OTHERS = {
    "sgd": lambda: optax.sgd(0.1, momentum=0.9),
    "adopt": lambda: optax.contrib.adopt(0.1),
    "acprop": lambda: optax.contrib.acprop(0.1),
    "madgrad": lambda: optax.contrib.madgrad(0.1),
    "cocob": optax.contrib.cocob,
    "dog": lambda: optax.contrib.dog(1.0),
    "prodigy": lambda: optax.contrib.prodigy(0.1),
}


def steps_alone(tx, gradients, params):
    """The steps of an optimizer without manifolds."""
    state, update = tx.init(params), jax.jit(tx.update)
    for g in gradients:
        step, state = update(g, state, params)
        yield step


def points(path, array):
    return to_slices(array) if path == "conv" else np.asarray(array, np.float64)[None]


def weight(path, points):
    return from_slices(points) if path == "conv" else points[0]


def kinds_of(spec, path):
    if path == "head":
        return ("stiefel",), None, np.full(1, R["stiefel"])[:, None, None]
    ids = np.asarray(spec["conv"].draw().manifold_ids)
    return NAMES, ids, np.array([R[name] for name in NAMES])[ids][..., None, None]


def expected_step(spec, path, scale, w, u, form, eta):
    """The weight after the step u, by the table in the docstring of `on_manifold`."""
    names, ids, radii = kinds_of(spec, path)
    x, u = points(path, w) / scale, points(path, u)
    if form != "none":
        u = by_kind(tangent, names, ids, x, u)
    if eta is not None:
        u = eta * radii * u / np.linalg.norm(u, axis=(-2, -1), keepdims=True)
    return weight(path, scale * by_kind(nearest, names, ids, x + u))


def assert_trees_close(actual, expected):
    """Equal but for the rounding of two compilations of one thing."""
    for one, other in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


# --- formulas ------------------------------------------------------------------------------------


CASES = [("adam", form, eta) for form in ("none", "direction", "gradient") for eta in (None, 0.2)]
CASES += [("muon", "none", 0.2), ("muon", "gradient", None), ("lion", "none", 0.2)]
CASES += [("kronecker", "none", 0.2), ("kronecker", "direction", None), ("ademamix", "none", None)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form", "eta"), CASES)
def test_three_steps_follow_the_formula_of_each_form(name, form, eta):
    params, spec = problem()
    make = INDEPENDENT[name]
    tx = fg.on_manifold(make(0.05), spec, tangent=form, relative_step=eta)
    state, update = tx.init(params), jax.jit(tx.update)
    weights, scales = params, {"conv": 1.0, "head": 2.0}
    alone, plain = make(0.05), jax.tree.map(jnp.zeros_like, params)
    alone_state, alone_update = alone.init(plain), jax.jit(alone.update)
    for seed in (2, 3, 4):
        g = random_like(params, seed)
        updates, state = update(g, state, weights)
        seen = dict(g)
        for path, scale in scales.items():
            names, ids, _ = kinds_of(spec, path)
            unit, gradient = points(path, weights[path]) / scale, points(path, g[path]) * scale
            if form == "gradient":
                gradient = by_kind(tangent, names, ids, unit, gradient)
            seen[path] = jnp.asarray(weight(path, gradient), jnp.float32)
        u, alone_state = alone_update(seen, alone_state, plain)
        moved = optax.apply_updates(weights, updates)
        for path, scale in scales.items():
            expected = expected_step(spec, path, scale, weights[path], u[path], form, eta)
            # Directions of float32 whose entries are quotients of almost equal numbers.
            np.testing.assert_allclose(moved[path], expected, atol=2e-5)
        np.testing.assert_allclose(updates["bias"], u["bias"], rtol=1e-5)
        weights = moved


@pytest.mark.sweep(fast=3)
@pytest.mark.parametrize("shape", [(6, 1), (4, 3), (3, 7)])
@pytest.mark.parametrize("radius", [1.0, 0.25, 30.0])
def test_adam_h_takes_the_published_step(shape, radius):
    # W⁺ = R·N(W − ηR·N(u)), u of Adam by hand, and the angle tan θ = η√(1 − c²)/(1 − ηc).
    rng, eta = np.random.default_rng(0), 0.3
    params = {"w": jnp.asarray(rng.normal(size=shape), jnp.float32)}
    sphere = fg.pom("layer", SPHERE, component=fg.Component((0,), (1,)), scale=radius)
    spec = fg.collection(params, ("w", sphere))
    params = fg.project(params, spec)
    tx = fg.on_manifold(optax.adam(1.0, eps=1e-20), spec, relative_step=eta)
    state, w = tx.init(params), np.asarray(params["w"], np.float64)
    m = v = np.zeros(shape)
    for t in (1, 2, 3):
        g = rng.normal(size=shape)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        u = -(m / (1 - 0.9**t)) / np.sqrt(v / (1 - 0.999**t))
        direction = u / np.linalg.norm(u)
        after = w + eta * radius * direction
        after *= radius / np.linalg.norm(after)
        updates, state = tx.update({"w": jnp.asarray(g, jnp.float32)}, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["w"], after, atol=2e-5 * radius)
        c = -np.sum(direction * w) / radius
        moved = np.asarray(params["w"], np.float64)
        cosine = np.sum(moved * w) / radius**2
        angle = np.arctan2(eta * np.sqrt(1 - c**2), 1 - eta * c)
        assert np.arccos(cosine) == pytest.approx(angle, abs=1e-4)
        w = moved


@pytest.mark.parametrize("radius", [1.0, 0.25])
def test_the_radius_is_the_stored_one_and_is_not_read_back_from_the_weight(radius):
    params = {"w": jnp.ones((4, 5))}
    sphere = fg.pom("PO", SPHERE, component="filter", scale=radius)
    spec = fg.collection(params, ("w", sphere))
    params = jax.tree.map(lambda w: w * 1.0005, fg.project(params, spec))  # as after rounding
    tx = fg.on_manifold(optax.adam(1.0), spec, relative_step=0.1)
    updates, _ = tx.update(random_like(params, 1), tx.init(params), params)
    assert fg.residual(params, spec)["w"] > 4e-4
    assert fg.residual(optax.apply_updates(params, updates), spec)["w"] < 1e-6


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_with_a_relative_step_neither_the_rate_nor_the_size_of_the_gradient_matters(size):
    params, spec = problem()
    g = random_like(params, 1)
    moves = []
    for rate, factor in ((1.0, 1.0), (1e-3, size)):
        tx = fg.on_manifold(optax.sgd(rate), spec, relative_step=0.1, euclidean=optax.set_to_zero())
        scaled = jax.tree.map(lambda leaf: factor * leaf, g)  # noqa: B023
        moves.append(tx.update(scaled, tx.init(params), params)[0])
    for one, other in zip(*map(jax.tree.leaves, moves), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_momentum_is_projected_on_request(name):
    # With it, SGD in the form "gradient" is `rsgd`, whose momentum is carried by projection.
    params, spec = problem()
    make = {
        "sgd": lambda: (optax.sgd(0.1, momentum=0.9), "trace"),
        "adam": lambda: (optax.adam(0.1), "mu"),
    }[name]
    tx, field = make()
    tx = fg.on_manifold(tx, spec, tangent="gradient", transport=(field,))
    reference = fg.rsgd(0.1, spec, momentum=0.9, euclidean="sgd")
    state, reference_state, weights = tx.init(params), reference.init(params), params
    for seed in (1, 2, 3):
        g = random_like(params, seed)
        old = optax.tree.get(state, field)["head"]
        updates, state = tx.update(g, state, weights)
        if name == "sgd":
            expected, reference_state = reference.update(g, reference_state, weights)
            for one, other in zip(*map(jax.tree.leaves, (updates, expected)), strict=True):
                np.testing.assert_allclose(one, other, atol=2e-6)
        else:
            x = np.asarray(weights["head"], np.float64) / 2
            both = [tangent("stiefel", x, np.asarray(a, np.float64)) for a in (old, 2 * g["head"])]
            expected = 0.9 * both[0] + 0.1 * both[1]
            np.testing.assert_allclose(optax.tree.get(state, field)["head"], expected, atol=2e-6)
            second = optax.tree.get(state, "nu")["head"]
            assert (second >= 0).all(), "the second moment is no tangent vector"
        weights = optax.apply_updates(weights, updates)


# --- Optax ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", [*INDEPENDENT, *OTHERS])
def test_optimizers_descend_and_stay_on_the_manifolds(name):
    params, spec = problem()
    target = fg.initialize(jax.random.key(5), params, spec)
    tx = OTHERS[name]() if name in OTHERS else INDEPENDENT[name](0.05)
    tx = fg.on_manifold(tx, spec)

    def loss(params):
        gaps = jax.tree.map(lambda p, t: jnp.sum((p - t) ** 2), params, target)
        return jax.tree.reduce(jnp.add, gaps)

    @jax.jit
    def run(params, state):
        def step(_, carry):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, 30, step, (params, state))

    after, state = run(params, tx.init(params))
    assert loss(after) < loss(params)
    assert max(fg.residual(after, spec).values()) < 2e-6
    assert types_of(state) == types_of(tx.init(params))


@pytest.mark.slow
def test_it_works_inside_the_wrappers_of_optax():
    params, spec = problem()
    g = random_like(params, 1)
    make = functools.partial(fg.on_manifold, spec=spec)
    plain = make(optax.adam(0.1), relative_step=0.1)
    expected, _ = plain.update(g, plain.init(params), params)

    injected = optax.inject_hyperparams(fg.on_manifold)(optax.adam(0.1), spec, relative_step=0.3)
    state = optax.tree.set(injected.init(params), relative_step=jnp.asarray(0.1))
    assert_trees_close(injected.update(g, state, params)[0], expected)

    scheduled = make(optax.adam(0.1), relative_step=lambda count: 0.1 * (count + 1))
    first, state = scheduled.update(g, scheduled.init(params), params)
    assert_trees_close(first, expected)
    assert state.count == 1

    labels = {"conv": "manifold", "head": "manifold", "bias": "other"}
    parted = optax.partition({"manifold": plain, "other": optax.sgd(1.0)}, labels)
    updates, _ = parted.update(g, parted.init(params), params)
    assert_trees_close(updates, expected | {"bias": -g["bias"]})

    masked = optax.masked(plain, {"conv": True, "head": False, "bias": False})
    updates, _ = masked.update(g, masked.init(params), params)
    assert_trees_close(updates, g | {"conv": expected["conv"]})

    steps = optax.MultiSteps(plain, 2)
    state = steps.init(params)
    update = jax.jit(steps.update, donate_argnums=1)
    updates, state = update(g, state, params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(updates))
    updates, state = update(g, state, params)
    assert_trees_close(updates, expected)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_dtypes_stay_on_the_manifolds_to_their_resolution(dtype):
    params, spec = problem(dtype)
    # The eps of Adam has to be a number of float16.
    tx = fg.on_manifold(optax.adam(0.1, eps=1e-4), spec, relative_step=0.1)
    state, update = tx.init(params), jax.jit(tx.update, donate_argnums=1)
    types = types_of((params, state))
    for seed in range(5):
        updates, state = update(random_like(params, seed), state, params)
        params = optax.apply_updates(params, updates)
    assert types_of((params, state)) == types
    assert max(fg.residual(params, spec).values()) < {"bfloat16": 3e-2, "float16": 3e-3}[dtype]


@pytest.mark.slow
def test_euclidean_leaves_take_the_optimizer_or_one_of_their_own():
    params, spec = problem()
    g = random_like(params, 1)
    own = fg.on_manifold(optax.adam(0.1), spec, euclidean=optax.sgd(0.5))
    both = fg.on_manifold(optax.adam(0.1), spec)
    alone = optax.adam(0.1)
    (u_own, _), (u_both, _) = (tx.update(g, tx.init(params), params) for tx in (own, both))
    np.testing.assert_allclose(u_own["bias"], -0.5 * g["bias"], rtol=1e-6)
    expected = next(steps_alone(alone, [g], params))["bias"]
    np.testing.assert_allclose(u_both["bias"], expected, rtol=1e-6)
    np.testing.assert_array_equal(u_own["conv"], u_both["conv"])


def test_measured_features_move_the_weights_to_the_new_scale():
    params, spec = problem()
    tx = fg.on_manifold(optax.adam(0.1), spec, relative_step=0.1)
    state = fg.set_feature_std(tx.init(params), {"conv": jnp.array([2.0, 0.5])})
    updates, state = tx.update(random_like(params, 1), state, params)
    moved = optax.apply_updates(params, updates)
    stds = fg.get_feature_std(state)
    assert max(fg.residual(moved, spec, feature_std=stds).values()) < 1e-6
    assert fg.residual(moved, spec)["conv"] > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("form", ["none", "direction", "gradient"])
def test_it_passes_the_check_of_optimizers(form):
    params, spec = problem()
    tx = fg.on_manifold(optax.adam(0.1), spec, tangent=form)
    report = fg.checks.check_optimizer(tx, params, spec)
    assert report.passed, f"\n{report.failures}"


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda spec: optax.adamw(0.1),
        lambda spec: optax.lion(0.1, weight_decay=0.1),
        lambda spec: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)),
        lambda spec: optax.adamw(optax.linear_schedule(0.0, 0.1, 100)),
        lambda spec: optax.MultiSteps(optax.adamw(0.1), 2).gradient_transformation(),
    ],
    ids=["adamw", "lion", "chain", "a rate that starts from 0", "every second step"],
)
def test_weight_decay_is_refused_where_the_norm_is_fixed(make):
    params, spec = problem()
    with pytest.raises(ValueError, match=r"shrinks 'conv', 'head', whose norm is fixed.*mask"):
        fg.on_manifold(make(spec), spec).init(params)


def test_weight_decay_of_euclidean_leaves_is_accepted():
    params, spec = problem()
    tx = fg.on_manifold(optax.adamw(0.1, mask=spec.euclidean_mask), spec)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert (updates["bias"] != 0).all()
    assert not updates["conv"].any()


@pytest.mark.parametrize("where", ["outermost", "inside a chain"])
def test_schedule_free_is_refused(where):
    params, spec = problem()
    tx = optax.contrib.schedule_free(optax.sgd(0.1), 0.1)
    if where == "inside a chain":
        tx = optax.chain(optax.clip(1.0), tx)
    with pytest.raises(ValueError, match="averages of weights along straight lines"):
        fg.on_manifold(tx, spec).init(params)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tangent": "tangent"}, ValueError, "'none', 'direction', 'gradient'; got 'tangent'"),
        ({"relative_step": "0.1"}, TypeError, "relative_step must be a number or a schedule"),
        ({"tx": 0.1}, TypeError, r"such as optax.adam\(1e-3\), got 0.1"),
        ({"spec": {}}, TypeError, "must be a Collection"),
        ({"transport": ("mo",)}, ValueError, "'mo', but no state .* has such a field"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    params, spec = problem()
    arguments = {"tx": optax.adam(0.1), "spec": spec} | arguments
    with pytest.raises(error, match=message):
        fg.on_manifold(**arguments).init(params)


def test_a_relative_step_needs_a_norm_that_is_fixed():
    params = {"w": jnp.ones((3, 3, 2, 3))}
    spec = fg.collection(params, ("w", fg.pom("PO", (SPHERE, fg.Euclidean()))))
    with pytest.raises(ValueError, match="fix the norm of a component, but 'w' may change"):
        fg.on_manifold(optax.adam(0.1), spec, relative_step=0.1)

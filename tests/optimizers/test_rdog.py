"""`rdog` and `rho="travelled"` follow their formulas, with distances between weights."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance_helpers import by_kind, from_slices, nearest, random_like, tangent, to_slices

import fgsgd_jax as fg

NAMES = ("sphere", "oblique", "stiefel")
MIXTURE = (fg.Sphere(), fg.Oblique(), fg.Stiefel())
SIZES = (3.0, 0.1, 1.0, 20.0)
START = 1e-2


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def problem(scheme, scale=None):
    """Slices (3, 3) of 2 inputs and 4 outputs, and a Euclidean leaf."""
    params = {"conv": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(3)}
    rule = ("conv", fg.pom(scheme, MIXTURE))
    spec = fg.collection(params, rule, default=None, scale=scale)
    return fg.project(random_like(params, seed=0), spec), spec


def angle(x, y, axes):
    """The angles between unit vectors along axes; an arccosine would lose half the digits."""
    return 2 * np.arcsin(np.linalg.norm(x - y, axis=axes) / 2)


def distance(name, x, y):
    """The distance of two stacks of points, as `scale_by_rdog` measures it."""
    if name == "sphere":
        return angle(x, y, (-2, -1))
    if name == "oblique":
        return np.linalg.norm(angle(x, y, -2), axis=-1)
    return np.linalg.norm(x - y, axis=(-2, -1))


def groups_of(spec, scheme):
    """The number of every slice's group, (C, D)."""
    drawn = spec["conv"].draw().groups
    if drawn is not None:
        return np.asarray(drawn)
    inputs, outputs = np.indices((2, 4))
    return {"PI": inputs, "PO": outputs, "layer": 0 * inputs}[scheme]


def norms(groups, numbers):
    """The root of the sum of squares over groups."""
    return np.sqrt(np.bincount(groups.ravel(), (numbers**2).ravel()))


def zeta(kappa, r):
    angle = np.sqrt(max(-kappa, 0)) * r
    return np.where(angle > 0, angle / np.tanh(np.where(angle > 0, angle, 1)), 1)


def step_sizes(method, init_step, kappa, r, lengths):
    """η of all groups in the last step, from r̄ of all steps and the norms of all gradients."""
    w = [one / np.sqrt(zeta(kappa, one)) for one in r]
    if init_step[0] == "learning_rate" and len(r) == 1:
        return np.full_like(w[-1], init_step[1])
    if method == "rdog":
        return w[-1] / (np.sqrt(np.sum(np.square(lengths), axis=0)) + 1e-8)
    if method == "rdowg":
        total = np.sum(np.square(w) * np.square(lengths), axis=0)
        return w[-1] ** 2 / (np.sqrt(total) + 1e-8)
    return w[-1] / (np.sqrt(len(r)) * lengths[-1] + 1e-8)


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize(
    ("method", "scheme", "init_step", "kappa"),
    [
        ("rdog", "PO", ("distance", START), -0.5),
        ("rdog", "PIO", ("heuristic", START), 0.0),
        ("rdowg", "PI", ("distance", START), -3.0),
        ("nrdog", "layer", ("learning_rate", 0.02), -3.0),
    ],
)
def test_four_steps_follow_the_formulas(method, scheme, init_step, kappa):
    params, spec = problem(scheme)
    tx = fg.rdog(spec, method=method, init_step=init_step, curvature=kappa)
    ids, groups = np.asarray(spec["conv"].draw().manifold_ids), groups_of(spec, scheme)
    state, update = tx.init(params), jax.jit(tx.update)
    start = to_slices(params["conv"])
    kind, value = init_step
    first = {
        "distance": value,
        "heuristic": value * (1 + norms(groups, np.linalg.norm(start, axis=(-2, -1)))),
        "learning_rate": 0.0,
    }[kind]
    r, lengths = [first + np.zeros(groups.max() + 1)], []
    for seed, size in enumerate(SIZES, start=1):
        gradient = random_like(params, seed, size)
        x = to_slices(params["conv"])
        g = by_kind(tangent, NAMES, ids, x, to_slices(gradient["conv"]))
        now = norms(groups, distances(ids, start, x))
        r.append(np.maximum(r[-1], now))
        lengths.append(norms(groups, np.linalg.norm(g, axis=(-2, -1))))
        eta = step_sizes(method, init_step, kappa, r[1:], lengths)
        expected = by_kind(nearest, NAMES, ids, x - eta[groups][..., None, None] * g)
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["conv"], from_slices(expected), atol=1e-9)
    assert np.any(r[-1] > first)  # distances have entered


def distances(ids, x, y):
    each = [distance(name, x, y) for name in NAMES]
    return np.select([ids == k for k in range(3)], each)


@pytest.mark.slow
def test_euclidean_leaves_take_dog_of_optax_or_a_transformation_of_their_own():
    params, spec = problem("PO")
    tx, own = fg.rdog(spec), fg.rdog(spec, euclidean=optax.sgd(0.5))
    dog = optax.contrib.dog(init_step=("distance", 1e-4))
    state, own_state, dog_state = tx.init(params), own.init(params), dog.init(params["bias"])
    for seed in (1, 2):
        g = random_like(params, seed)
        updates, state = tx.update(g, state, params)
        expected, dog_state = dog.update(g["bias"], dog_state, params["bias"])
        np.testing.assert_allclose(updates["bias"], expected, rtol=1e-9)
        updates, own_state = own.update(g, own_state, params)
        np.testing.assert_allclose(updates["bias"], -0.5 * g["bias"], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [None, 0.25])
def test_distances_are_those_of_points_at_unit_scale(scale):
    params, spec = problem("layer", scale)
    plain, plain_spec = problem("layer")
    g = random_like(params, 1)
    moved = []
    for tree, one in ((params, spec), (plain, plain_spec)):
        tx = fg.rdog(one, init_step=("heuristic", START))
        state = tx.init(tree)
        for _ in range(3):
            updates, state = tx.update(g, state, tree)
            tree = optax.apply_updates(tree, updates)
        moved.append(tree["conv"])
    np.testing.assert_allclose(moved[0] / (scale or 1), moved[1], atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "first"), [("rdog", 1e-8), ("rdog", 1e-1), ("rdowg", 1e-8), ("rdowg", 1e-4)]
)
def test_the_leading_eigenvector_is_found_whatever_the_first_step(method, first):
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    matrix = jnp.asarray(basis @ np.diag(np.linspace(0, 1, 20) ** 4) @ basis.T)
    params = {"w": jnp.asarray(rng.normal(size=(20, 1)))}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())))
    params = fg.project(params, spec)
    tx = fg.rdog(spec, method=method, init_step=("distance", first), curvature=0.0)

    def step(carry, _):
        params, state = carry
        loss = lambda tree: -jnp.vdot(tree["w"], matrix @ tree["w"])  # noqa: E731
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(lambda *carry: jax.lax.scan(step, carry, length=1500)[0])
    w = np.ravel(run(params, tx.init(params))[0]["w"])
    assert 1 - abs(w @ basis[:, -1]) < 1e-5


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize(("scheme", "per_component"), [("PIO", False), ("PO", True)])
def test_rho_travelled_is_the_largest_distance_so_far(scheme, per_component):
    params, spec = problem(scheme)
    optimizer = fg.rsgd if per_component else fg.fgsgd
    settings = {"normalize": True} if per_component else {}
    tx = optimizer(0.5, spec, rho="travelled", **settings)
    ids = np.asarray(spec["conv"].draw().manifold_ids)
    groups = np.arange(8).reshape(2, 4) if per_component else groups_of(spec, scheme)
    state, update = tx.init(params), jax.jit(tx.update)
    start, rho = to_slices(params["conv"]), np.zeros(groups.max() + 1)
    for seed in (1, 2, 3):
        gradient = random_like(params, seed, 3.0)
        x = to_slices(params["conv"])
        v = by_kind(tangent, NAMES, ids, x, to_slices(gradient["conv"]))
        g = norms(groups, np.linalg.norm(v, axis=(-2, -1)))
        rho = np.maximum(rho, norms(groups, distances(ids, start, x)))
        square = g**2 * np.maximum((2 * rho + g) ** 2, 1 + (rho + g))
        tau = np.sqrt(np.maximum(1, square))[groups][..., None, None]
        expected = by_kind(nearest, NAMES, ids, x - 0.5 * v / tau)
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["conv"], from_slices(expected), atol=1e-9)
    assert np.all(rho > 0.05)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "dog"}, "`method` is one of 'rdog', 'rdowg', 'nrdog'; got 'dog'"),
        ({"init_step": 1e-6}, "`init_step` is a pair"),
        ({"init_step": ("radius", 1e-6)}, "got ('radius', 1e-06)"),
        ({"init_step": ("distance", 0.0)}, "a number above 0"),
        ({"init_step": ("distance", True)}, "a number above 0"),
    ],
)
def test_unknown_methods_and_first_steps_are_named(settings, said):
    _, spec = problem("PO")
    with pytest.raises(ValueError, match=re.escape(said)):
        fg.rdog(spec, **settings)


@pytest.mark.slow
def test_it_passes_the_check_of_optimizers():
    params, spec = problem("PO")
    report = fg.checks.check_optimizer(fg.rdog(spec, init_step=("distance", 0.1)), params, spec)
    assert report.passed, f"\n{report.failures}"

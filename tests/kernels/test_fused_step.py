"""The fused step of `fgsgd` is the chain of its links, up to rounding, in fewer passes.

The links are held to the formulas in `test_numpy_reference`; here the fast path is held to them:
every manifold, scheme, momentum and dtype, on weights small enough to be computed in one piece and
large enough to be computed in stages.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg
from fgsgd_jax import _xla_cpu
from fgsgd_jax.transforms._fused import EXACT_EVERY

MANIFOLDS = {
    "sphere": (fg.Sphere(),),
    "oblique": (fg.Oblique(),),
    "stiefel": (fg.Stiefel(),),
    "qr": (fg.Stiefel(retraction="qr"),),
    "four types": (fg.Sphere(), fg.Oblique(), fg.Stiefel(), fg.Euclidean()),
}
SCHEMES = ("PI", "PO", "PIO", "layer", "kernel")
MOMENTA = {"none": (None, False), "heavy ball": (0.9, False), "nesterov": (0.9, True)}
# Some twenty operations on numbers of size 1, in two steps; in bfloat16 every link of the chain
# rounds its vectors to 8 bits, and the fast path does not.
TOLERANCES = {"float64": 1e-14, "float32": 2e-6, "bfloat16": 3e-2}
RATE, STEPS = 0.5, 2


def links(spec, decay, nesterov, **numbers):
    momentum = [] if decay is None else [fg.trace_on_manifold(spec, decay, nesterov)]
    return optax.chain(
        fg.project_to_tangent(spec),
        *momentum,
        fg.scale_by_fgsgd(spec, **numbers),
        optax.scale_by_learning_rate(RATE),
        fg.retract_updates(spec),
    )


def run(tx, params, size):
    """The weights and momenta after two steps along gradients of a size."""
    state, update = tx.init(params), jax.jit(tx.update)
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        gradient = jax.tree.map(
            lambda leaf: jnp.asarray(size * rng.standard_normal(leaf.shape), leaf.dtype), params
        )
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    traces = optax.tree.get_all_with_path(state, "trace")
    return params, [trace for _, trace in traces if jax.tree.leaves(trace)]


def weights(shape, dtype, names, scheme):
    params = {"w": jax.random.normal(jax.random.key(0), shape, dtype), "bias": jnp.ones(3, dtype)}
    spec = fg.collection(params, ("w", fg.pom(scheme, MANIFOLDS[names])))
    return fg.project(params, spec), spec


def assert_close(one, other, tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=tolerance, atol=tolerance
        )


def compare(shape, dtype, names, scheme, momentum, size=1.0):
    with jax.enable_x64(dtype == "float64"):
        params, spec = weights(shape, dtype, names, scheme)
        decay, nesterov = MOMENTA[momentum]
        fast = fg.fgsgd(RATE, spec, momentum=decay, nesterov=nesterov, euclidean="sgd")
        one, other = (run(tx, params, size) for tx in (fast, links(spec, decay, nesterov)))
        assert float(jnp.max(jnp.abs(one[0]["w"] - params["w"]))) > 3 * TOLERANCES[dtype]
        assert_close(one, other, TOLERANCES[dtype])


def assert_far_weights_land(names, sizes=(1e6, 1e16)):
    """From far off, long gradients lead onto the manifolds, or to NaN; those of 0 nowhere.

    The steps are so short that their squares underflow; for the longer gradients τ is infinite.
    """
    params, spec = weights((3, 3, 4, 6), "float32", names, "PO")
    off = params | {"w": 100 * params["w"]}
    tx = fg.fgsgd(RATE, spec)
    state, update = jax.jit(tx.init)(off), jax.jit(tx.update)
    kinds = [type(manifold).__name__ for manifold in MANIFOLDS[names]]
    ids = np.asarray(spec.manifold_ids().get("w", np.zeros((4, 6), int)))
    for size in sizes:
        gradient = jax.tree.map(lambda leaf, size=size: size * jnp.cos(100 * leaf), params)
        gradient["w"] = gradient["w"].at[..., 1, 2].set(0)
        updates, _ = update(gradient, state, off)
        after = np.asarray(optax.apply_updates(off, updates)["w"], np.float64)
        assert not np.any(updates["w"][..., 1, 2])
        for lane in set(np.ndindex(4, 6)) - {(1, 2)}:
            kind, x = kinds[ids[lane]], after[:, :, *lane]
            if kind == "Sphere":
                np.testing.assert_allclose(np.linalg.norm(x), 1, atol=1e-3)
            elif kind == "Oblique":
                np.testing.assert_allclose(np.linalg.norm(x, axis=0), 1, atol=1e-3)
            elif kind == "Stiefel" and not np.isnan(x).all():
                np.testing.assert_allclose(x.T @ x, np.eye(3), atol=1e-3)


@pytest.mark.parametrize("names", ["sphere", "oblique", "stiefel", "qr", "four types"])
def test_long_gradients_lead_weights_far_off_onto_their_manifolds(names):
    assert_far_weights_land(names)


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("names", MANIFOLDS)
def test_every_manifold_and_scheme(names, scheme):
    # Every momentum meets every manifold and every scheme once.
    turn = (list(MANIFOLDS).index(names) + SCHEMES.index(scheme)) % len(MOMENTA)
    compare((3, 3, 4, 6), "float64", names, scheme, list(MOMENTA)[turn])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("names", MANIFOLDS)
def test_every_dtype(names, dtype):
    compare((3, 3, 4, 6), dtype, names, "PO", "heavy ball", size=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("names", ["stiefel", "four types"])
def test_points_that_are_not_3x3(names):
    compare((5, 3, 4, 6), "float64", names, "PI", "heavy ball")
    compare((2, 4, 4, 6), "float64", names, "PI", "none")


@pytest.mark.slow
@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("names", MANIFOLDS)
def test_weights_large_enough_to_be_computed_in_stages(names, momentum):
    shape = (3, 3, 64, 128)
    assert np.prod(shape) >= _xla_cpu.MATERIALIZED_SIZE
    compare(shape, "float32", names, "PIO", momentum, size=0.1)


def test_drawn_groups_are_summed_without_a_scatter_or_a_copy():
    params, spec = weights((3, 3, 64, 128), "float32", "sphere", "PIO")
    tx = fg.fgsgd(RATE, spec)
    compiled = jax.jit(tx.update).lower(params, tx.init(params), params).compile().as_text()
    assert "scatter(" not in compiled
    assert re.findall(r"f32\[(8192|64,128)\]\S* copy\(", compiled) == []


def test_gradients_nearly_normal_to_a_large_weight_leave_it_on_its_manifold():
    # ‖g‖² − ⟨x, g⟩² would have no correct digit here.
    params, spec = weights((3, 3, 64, 128), "float32", "sphere", "PO")
    rng = np.random.default_rng(1)
    gradient = 1e4 * params["w"] + jnp.asarray(rng.normal(size=params["w"].shape), jnp.float32)
    tx = fg.rsgd(1.0, spec)
    gradients = {"w": gradient, "bias": jnp.zeros(3)}
    updates, _ = jax.jit(tx.update)(gradients, tx.init(params), params)
    moved = optax.apply_updates(params, updates)
    assert float(fg.residual(moved, spec)["w"]) < 1e-6
    x, g = (np.asarray(a, np.float64).reshape(9, -1) for a in (params["w"], gradient))
    step = x - (g - np.sum(x * g, 0) / np.sum(x * x, 0) * x)
    expected = step / np.linalg.norm(step, axis=0)
    error = np.asarray(moved["w"], np.float64).reshape(9, -1) - expected
    # ⟨x, g⟩x is rounded at 1e4·eps, and that is what a tangent vector of size 3 then misses.
    assert np.max(np.abs(error)) < 1e4 * 9 * np.finfo(np.float32).eps


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


def chained(spec):
    return optax.chain(optax.scale(1.7), fg.rsgd(1.0, spec))


def with_momentum(spec):
    return optax.chain(optax.scale(1.7), fg.rsgd(1.0, spec, momentum=0.9, nesterov=True))


@pytest.mark.parametrize(
    ("manifolds", "shape", "scale", "optimizer"),
    [
        ((fg.Sphere(), fg.Oblique()), (3, 3, 8, 16), None, fg.rsgd),
        ((fg.Sphere(), fg.Euclidean()), (3, 3, 8, 16), 0.03, fg.rsgd),
        slow((fg.Sphere(), fg.Oblique(), fg.Stiefel()), (3, 3, 8, 16), None, chained),
        slow((fg.Sphere(), fg.Oblique(), fg.Euclidean()), (5, 5, 32, 96), 0.03, fg.rsgd),
        ((fg.Sphere(),), (5, 5, 32, 96), 0.03, chained),
        ((fg.Oblique(),), (5, 5, 32, 96), None, with_momentum),
    ],
)
def test_nearly_normal_gradients_leave_mixtures_and_scaled_weights_on_their_manifolds(
    manifolds, shape, scale, optimizer
):
    # The passes of a compiled step all compute g − ⟨x, g⟩x. Its rounding, at 1e6·eps, must be the
    # same in the one that measures ‖x + t·v‖ and in the one that moves x.
    rng = np.random.default_rng(1)
    params = {"w": jnp.asarray(rng.normal(size=shape), jnp.float32)}
    spec = fg.collection(params, ("w", fg.pom("PO", manifolds, scale=scale)))
    params = fg.project(params, spec)
    noise = jnp.asarray(rng.normal(size=shape), jnp.float32)
    gradient = {"w": 1e6 / (scale or 1) * params["w"] + noise}
    tx = optimizer(1.0, spec) if optimizer is fg.rsgd else optimizer(spec)
    updates, _ = jax.jit(tx.update)(gradient, tx.init(params), params)
    assert float(fg.residual(optax.apply_updates(params, updates), spec)["w"]) < 1e-6


def test_gradients_along_a_large_weight_multiply_no_rounding():
    # Along x and against it in turn, with τ = 1, ⟨x, g⟩ would multiply ‖x‖ − 1 by up to 3 a step.
    params, spec = weights((3, 3, 64, 128), "float32", "sphere", "kernel")
    assert params["w"].size >= _xla_cpu.MATERIALIZED_SIZE
    tx = fg.fgsgd(1.0, spec)
    update, state = jax.jit(tx.update), tx.init(params)
    rng = np.random.default_rng(1)
    for turn in range(2 * EXACT_EVERY):
        noise = jnp.asarray(0.1 * rng.normal(size=params["w"].shape), jnp.float32)
        gradient = {"w": (-1) ** turn * 100 * params["w"] + noise, "bias": jnp.zeros(3)}
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        assert float(fg.residual(params, spec)["w"]) < 1e-6, turn


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "optimizer"), [("sphere", fg.fgsgd), ("stiefel", fg.rsgd), ("four types", fg.rsgd)]
)
def test_rounding_that_is_removed_only_now_and_then_does_not_pile_up(names, optimizer):
    params, spec = weights((3, 3, 64, 128), "float32", names, "PO")
    assert params["w"].size >= _xla_cpu.MATERIALIZED_SIZE
    tx = optimizer(0.3, spec, momentum=0.9)

    def step(index, carried):
        params, state, worst = carried
        key = jax.random.fold_in(jax.random.key(0), index)
        gradient = {"w": jax.random.normal(key, params["w"].shape), "bias": jnp.zeros(3)}
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return params, state, jnp.maximum(worst, fg.residual(params, spec)["w"])

    start = params, tx.init(params), jnp.zeros(())
    worst = jax.jit(lambda: jax.lax.fori_loop(0, 600, step, start))()[2]
    # In eight steps points collect some eps; never removed, it is above 2e-6 after 600.
    assert worst < 1.5e-6


@pytest.mark.parametrize("names", ["sphere", "oblique", "four types"])
@pytest.mark.parametrize("size", [8e37, 2e38])
def test_gradients_close_to_overflow_leave_weights_on_their_manifolds(names, size):
    params, spec = weights((3, 3, 4, 6), "float32", names, "PO")
    gradient = {"w": jnp.ones_like(params["w"]).at[1, 2].set(size), "bias": jnp.zeros(3)}
    tx = fg.rsgd(0.1, spec)
    updates, _ = tx.update(gradient, tx.init(params), params)
    assert float(fg.residual(optax.apply_updates(params, updates), spec)["w"]) < 1e-6


@pytest.mark.slow
def test_steps_of_any_length_end_on_the_manifolds():
    for names in ("sphere", "oblique", "stiefel"):
        params, spec = weights((3, 3, 64, 128), "float32", names, "PO")
        rng = np.random.default_rng(2)
        direction = {
            "w": rng.normal(size=params["w"].shape).astype(np.float32),
            "bias": jnp.zeros(3),
        }
        tx = fg.rsgd(1.0, spec)
        update, state = jax.jit(tx.update), tx.init(params)
        for size in (1e-30, 1e-6, 1.0, 1e6, 1e30):
            gradient = jax.tree.map(lambda leaf, size=size: jnp.float32(size) * leaf, direction)
            updates, _ = update(gradient, state, params)
            moved = optax.apply_updates(params, updates)
            assert float(fg.residual(moved, spec)["w"]) < 1e-6, (names, size)

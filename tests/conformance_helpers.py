"""Formulas of the conformance tests, in NumPy and apart from the library; and small tools.

Points are stacked here as (..., rows, columns), in float64. The manifolds go by the names
"sphere", "oblique" and "stiefel".
"""

import contextlib
import hashlib
import logging

import jax
import numpy as np

import fgsgd_jax as fg

# --- manifolds ----------------------------------------------------------------------------------


def to_slices(kernel) -> np.ndarray:
    """A kernel (A, B, C, D) as the stack (C, D, A, B) of its component weights."""
    return np.moveaxis(np.asarray(kernel).astype(np.float64), (0, 1), (-2, -1))


def from_slices(slices: np.ndarray) -> np.ndarray:
    return np.moveaxis(slices, (-2, -1), (0, 1))


def symmetric(a: np.ndarray) -> np.ndarray:
    return 0.5 * (a + np.swapaxes(a, -2, -1))


def is_wide(x: np.ndarray) -> bool:
    return x.shape[-2] < x.shape[-1]


def tangent(name: str, x: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The part of g that is tangent at x."""
    if name == "sphere":
        return g - np.sum(x * g, axis=(-2, -1), keepdims=True) * x
    if name == "oblique":
        return g - np.sum(x * g, axis=-2, keepdims=True) * x
    if is_wide(x):
        return g - symmetric(g @ np.swapaxes(x, -2, -1)) @ x
    return g - x @ symmetric(np.swapaxes(x, -2, -1) @ g)


def nearest(name: str, x: np.ndarray) -> np.ndarray:
    """The nearest point of the manifold; that to x + v is also where the retractions end."""
    if name == "sphere":
        return x / np.sqrt(np.sum(x**2, axis=(-2, -1), keepdims=True))
    if name == "oblique":
        return x / np.sqrt(np.sum(x**2, axis=-2, keepdims=True))
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    return u @ vt


def residual(name: str, x: np.ndarray) -> np.ndarray:
    """How far x misses the equations of the manifold, one number per point."""
    if name == "sphere":
        return np.abs(np.sqrt(np.sum(x**2, axis=(-2, -1))) - 1)
    if name == "oblique":
        return np.max(np.abs(np.sqrt(np.sum(x**2, axis=-2)) - 1), axis=-1)
    x = np.swapaxes(x, -2, -1) if is_wide(x) else x
    return np.linalg.norm(np.swapaxes(x, -2, -1) @ x - np.eye(x.shape[-1]), axis=(-2, -1))


def normal_part(name: str, x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How far v misses the equations of the tangent space at x, one number per point."""
    if name == "sphere":
        return np.abs(np.sum(x * v, axis=(-2, -1)))
    if name == "oblique":
        return np.max(np.abs(np.sum(x * v, axis=-2)), axis=-1)
    if is_wide(x):
        x, v = np.swapaxes(x, -2, -1), np.swapaxes(v, -2, -1)
    return np.linalg.norm(2 * symmetric(np.swapaxes(x, -2, -1) @ v), axis=(-2, -1))


def by_kind(function, names: tuple[str, ...], manifold_ids: np.ndarray | None, *points: np.ndarray):
    """`function` with every point's own manifold: names[kind], or the only name."""
    answers = [function(name, *points) for name in names]
    if manifold_ids is None:
        return answers[0]
    manifold_ids = np.asarray(manifold_ids).reshape(
        manifold_ids.shape + (1,) * (answers[0].ndim - manifold_ids.ndim)
    )
    return np.select([manifold_ids == k for k in range(len(names))], answers)


# --- FG-SGD -------------------------------------------------------------------------------------


def fgsgd_trajectory(
    x, gradients, *, names, manifold_ids, groups, rate, decay, nesterov=False, normalize=True
):
    """FG-SGD with momentum on a stack of points, by eq. (5) and (6) with ρ = c = 1.

    Yields, for every gradient, the points it was given at, the momentum and the points after it.
    `groups` numbers the group of every point.
    """
    m = np.zeros_like(x)
    for g in gradients:
        v = by_kind(tangent, names, manifold_ids, x, g)
        m = decay * by_kind(tangent, names, manifold_ids, x, m) + v
        step = v + decay * m if nesterov else m
        if normalize:
            squares = np.sum(step**2, axis=(-2, -1))
            norm = np.sqrt(np.bincount(groups.ravel(), squares.ravel()))
            gamma = norm**2 * np.maximum((2 + norm) ** 2, 1 + (1 + norm))
            tau = np.sqrt(np.maximum(1, gamma))
            step = step / tau[groups][..., None, None]
        after = by_kind(nearest, names, manifold_ids, x - rate * step)
        yield x, m, after
        x = after


# --- JAX ----------------------------------------------------------------------------------------


def precision(dtype) -> contextlib.AbstractContextManager:
    """A context in which the dtype exists: float64 needs its switch, which is put back."""
    return jax.enable_x64(np.dtype(dtype).itemsize == 8)


def random_like(params, seed: int, scale: float = 1.0):
    """Normal numbers in the shapes and dtypes of a tree."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jax.numpy.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype), params
    )


def assert_trees_equal(actual, expected) -> None:
    """Same structure, types and bits; NaN equals NaN."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    leaves = jax.tree_util.tree_leaves_with_path(actual)
    for (keys, one), other in zip(leaves, jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype, keys
        np.testing.assert_array_equal(one, other, err_msg=jax.tree_util.keystr(keys))


def types_of(tree):
    """The shape, dtype, weak type and sharding of every leaf."""
    return jax.tree.map(jax.typeof, tree)


def digests_of_draws(seed: int) -> dict[str, str]:
    """What is drawn for two layers, as one digest for every array."""
    shapes = {
        "conv": jax.ShapeDtypeStruct((3, 3, 16, 32), np.float32),
        "deep": {"conv": jax.ShapeDtypeStruct((5, 5, 8, 8), np.float32)},
    }
    spec = fg.collection(shapes, seed=seed)
    drawn = jax.tree_util.tree_leaves_with_path(
        {"manifold_ids": spec.manifold_ids(), "groups": spec.groups()}
    )
    return {
        jax.tree_util.keystr(keys): hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
        for keys, leaf in drawn
    }


@contextlib.contextmanager
def compilations():
    """Collects the names of the functions that XLA compiles inside the block."""
    names: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record):
            if record.msg.startswith("Compiling"):
                names.append(record.getMessage().split(" with ")[0].removeprefix("Compiling "))

    logger, handler = logging.getLogger("jax"), Handler()
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            yield names
    finally:
        logger.removeHandler(handler)

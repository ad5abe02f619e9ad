"""Laws that manifolds and optimizers are held to, as functions you can run on your own.

`check_manifold` measures what a manifold promises (projections project, geodesics obey their
equation, distances are distances, …), `check_retraction` the order of a retraction,
`check_gradient` that a function and its gradient agree, `check_optimizer` what an optimizer on
manifolds promises (it stays there, does nothing on zero gradients, survives huge ones, …). Each
returns a `Report`: law, measured, tolerance, verdict. The tests of this library call the same
functions for every manifold and optimizer it ships.

The laws follow Manopt's `checkmanifold`, `checkretraction` and `checkgradient` (Boumal et al.,
2014) and ManifoldsBase.jl's numerical checks (Axen et al., 2023).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax._src.base import NO_PARAMS_MSG

from fgsgd_jax.geometry import Manifold
from fgsgd_jax.spec import Collection, residual


class Law(NamedTuple):
    """One line of a report: a law, what was measured, and the largest value that passes."""

    name: str
    measured: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the measured value is within the tolerance; NaN is not."""
        return self.measured <= self.tolerance


class Report(tuple[Law, ...]):
    """The laws that were checked; prints as a table."""

    @property
    def passed(self) -> bool:
        """Whether all laws hold."""
        return all(law.passed for law in self)

    @property
    def failures(self) -> "Report":
        """The laws that do not hold."""
        return Report(law for law in self if not law.passed)

    def __str__(self) -> str:
        width = max((len(law.name) for law in self), default=3)
        lines = [f"{'law':{width}}  {'measured':>9}  {'tolerance':>9}  verdict"]
        for law in self:
            verdict = "holds" if law.passed else "FAILS"
            lines.append(
                f"{law.name:{width}}  {law.measured:9.1e}  {law.tolerance:9.1e}  {verdict}"
            )
        return "\n".join(lines)


# --- manifolds -----------------------------------------------------------------------------------

# Rounding of a handful of operations on unit vectors: the tolerances of Manopt and geomstats.
ROUNDING = {4: 1e-6, 8: 1e-12}
# Through a matrix exponential, or a logarithm found by iteration.
ITERATED = {4: 1e-4, 8: 1e-9}
# Relative, for distances from 1e-5 (float32) or 1e-8 (float64) to this part of the injectivity
# radius.
DISTANCE = {4: 1e-4, 8: 1e-8}
SHORTEST = {4: 1e-5, 8: 1e-8}
LONGEST = 0.95
# Second derivatives lose half of the digits of what they differentiate.
CURVED = {4: 1e-4, 8: 1e-10}


def check_manifold(
    manifold: Manifold,
    key: jax.Array,
    *,
    shape: Any = (4, 3),
    dtype: Any = jnp.float32,
    injectivity_radius: float = math.pi,
) -> Report:
    """Measures the laws of a manifold at random points.

    Laws about verbs that the manifold does not have (`exp`, `log`, `dist`) are left out.

    Args:
        manifold: The manifold.
        key: A PRNG key.
        shape: The shape of the points, `(rows, columns, *lanes)`; for a `Product` one shape for all
            factors or a tuple of shapes.
        dtype: float32, or float64 where it is enabled.
        injectivity_radius: Up to where `exp` and `log` must be inverse to each other.

    Returns:
        A report. Errors are absolute for unit vectors, relative for distances.

    Example:
        >>> import jax
        >>> from fgsgd_jax import Sphere
        >>> report = check_manifold(Sphere(), jax.random.key(0), shape=(3, 3))
        >>> report.passed, sorted(report[0]._asdict())
        (True, ['measured', 'name', 'tolerance'])
    """
    size = jnp.dtype(dtype).itemsize
    measured = _measure(manifold, _hashable(shape), jnp.dtype(dtype), injectivity_radius, key)
    tolerances = {
        "rounding": ROUNDING[size],
        "iterated": ITERATED[size],
        "distance": 1.0,
        "curved": CURVED[size],
        "exact": 0.0,
    }
    laws = [Law(name, float(value), tolerances[kind]) for (name, kind), value in measured.items()]
    laws.append(_dimension_law(manifold, key, shape))
    return Report(laws)


def _hashable(shape):
    return tuple(_hashable(part) if not isinstance(part, int) else part for part in shape)


class _Space(NamedTuple):
    """Arithmetic on points that may be tuples of arrays (of a `Product`)."""

    manifold: Manifold

    def add(self, x, v):
        return jax.tree.map(jnp.add, x, v)

    def sub(self, x, y):
        return jax.tree.map(jnp.subtract, x, y)

    def scale(self, t, v):
        return jax.tree.map(lambda leaf: t * leaf, v)

    def stack(self, *points):
        """Points and stacks of points as one stack, along a last lane axis."""
        rank = max(jnp.ndim(leaf) for point in points for leaf in jax.tree.leaves(point))

        def join(*leaves):
            lanes = [leaf if leaf.ndim == rank else leaf[..., None] for leaf in leaves]
            return jnp.concatenate(lanes, axis=-1)

        return jax.tree.map(join, *points)

    def lanes(self, *points):
        """Points side by side along a new lane axis, the last: a verb then compiles only once."""
        return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=-1), *points)

    def error(self, x, y) -> jax.Array:
        """The largest difference of an entry; NaN if any is."""
        differences = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), x, y)
        return jnp.max(jnp.stack(jax.tree.leaves(differences)))

    def size(self, x) -> jax.Array:
        return self.error(x, jax.tree.map(jnp.zeros_like, x))

    def noise(self, key, x):
        """A Gaussian array (or tuple) like x."""
        leaves, structure = jax.tree.flatten(x)
        keys = jax.random.split(key, len(leaves))
        drawn = [
            jax.random.normal(key, leaf.shape, leaf.dtype)
            for key, leaf in zip(keys, leaves, strict=True)
        ]
        return structure.unflatten(drawn)

    def tangent(self, key, x):
        """A tangent vector of norm 1 at x, in every lane."""
        v = self.manifold.to_tangent(x, self.noise(key, x))
        return self.scale(1 / self.manifold.norm(x, v), v)


@functools.partial(jax.jit, static_argnums=0)
def _exp(manifold: Any, x, v):
    return manifold.exp(x, v)


@functools.partial(jax.jit, static_argnums=0)
def _distances(manifold: Any, x, y):
    return manifold.dist(x, y), manifold.log(x, y)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _measure(manifold: Manifold, shape, dtype, radius: float, key) -> dict:
    """All laws that can be measured at one set of random points, in one compiled function."""
    keys = iter(jax.random.split(key, 16))
    space = _Space(manifold)
    size = dtype.itemsize
    x, y = (manifold.random(next(keys), shape, dtype) for _ in range(2))
    u, v, w, z = (space.tangent(next(keys), x) for _ in range(4))
    g, h = (space.noise(next(keys), x) for _ in range(2))
    to_tangent = functools.partial(manifold.to_tangent, x)
    inner = functools.partial(manifold.inner, x)
    laws: dict[tuple[str, str], jax.Array] = {}

    def law(name, kind, value):
        laws[name, kind] = jnp.max(value)

    # Law 1: projections.
    projected = manifold.project(g)
    law("random points are on the manifold", "rounding", manifold.residual(x))
    law("project lands on the manifold", "rounding", manifold.residual(projected))
    law("project keeps points", "rounding", space.error(manifold.project(x), x))
    law("to_tangent keeps tangents", "rounding", space.error(to_tangent(u), u))
    combined = space.add(g, space.scale(2.0, h))
    split = space.add(to_tangent(g), space.scale(2.0, to_tangent(h)))
    law("to_tangent is linear", "rounding", space.error(to_tangent(combined), split) / 4)
    adjoint = manifold._ambient_inner(to_tangent(g), h) - manifold._ambient_inner(g, to_tangent(h))
    scale = jnp.sqrt(manifold._ambient_inner(g, g) * manifold._ambient_inner(h, h))
    law("to_tangent is self-adjoint", "rounding", jnp.abs(adjoint) / scale)

    # Law 2: the metric.
    law("inner is symmetric", "rounding", jnp.abs(inner(u, v) - inner(v, u)))
    bilinear = inner(space.add(u, space.scale(2.0, w)), v) - inner(u, v) - 2 * inner(w, v)
    law("inner is bilinear", "rounding", jnp.abs(bilinear))
    law("inner is positive", "exact", -inner(u, u))
    law("norm is the root of inner", "rounding", jnp.abs(manifold.norm(x, u) ** 2 - inner(u, u)))

    # Law 8: retractions at 0, and on the manifold at every length.
    def retracted(t):
        return manifold.retract(x, space.scale(t, v))

    at_zero, velocity = jax.jvp(retracted, (jnp.zeros((), dtype),), (jnp.ones((), dtype),))
    law("retract of 0 stays", "rounding", space.error(at_zero, x))
    law("retract leaves with velocity v", "rounding", space.error(velocity, v))
    lengths = (1e-3, 1.0, 1e3, 1e15)
    steps = space.lanes(*(space.scale(jnp.asarray(length, dtype), v) for length in lengths))
    landed = manifold.residual(manifold.retract(space.lanes(*[x] * len(lengths)), steps))
    for place, length in enumerate(lengths):
        law(f"retract lands at step length {length:g}", "rounding", landed[..., place])

    # The factors of the fast path, where there are any, say the same as the verbs.
    if len(jax.tree.leaves(v)) == 1:  # not a `Product`, whose points are tuples
        t = jnp.asarray(0.7, dtype)
        removed = manifold.remove_normal(x, g, manifold.normal_factor(x, g))
        law("remove_normal is to_tangent", "rounding", space.error(removed, to_tangent(g)))
        for normal in (None, manifold.normal_factor(x, v)):
            moved = manifold.displacement(x, v, t, manifold.step_factor(x, v, t, normal))
            error = space.error(space.add(x, moved), retracted(t))
            given = "alone" if normal is None else "with a normal_factor"
            law(f"displacement is retract ({given})", "rounding", error)
        rough = manifold.rough_step_factor(inner(v, v), t, manifold.normal_factor(x, v))
        if rough is not None:
            moved = manifold.displacement(x, v, t, rough[0])
            error = space.error(space.add(x, moved), retracted(t))
            law("a rough displacement is retract", "rounding", error)
        if manifold.factor_at_rest is not None:
            none = space.scale(0.0, v)
            moved = manifold.displacement(x, none, t, manifold.factor_at_rest)
            law("the factor at rest moves nothing", "exact", space.error(moved, none))
        squares = manifold.squared_norm(v, manifold.normal_factor(x, v))
        law("squared_norm is that of inner", "rounding", jnp.abs(squares - inner(v, v)))

    # Law 10: transport.
    there = functools.partial(manifold.transport, x, y)
    law("transport is tangent", "rounding", space.error(manifold.to_tangent(y, there(u)), there(u)))
    carried = space.sub(there(space.add(u, space.scale(2.0, w))), there(u))
    law("transport is linear", "rounding", space.error(carried, space.scale(2.0, there(w))) / 4)
    law(
        "transport to the same point stays", "rounding", space.error(manifold.transport(x, x, u), u)
    )

    # Law 12: curvature. Its symmetries, and the stated bound over random planes.
    orders = ((u, v, w, z), (v, u, w, z), (w, z, u, v), (v, w, u, z), (w, u, v, z))
    vectors = (space.lanes(*places) for places in zip(*orders, strict=True))
    curvatures = manifold.curvature(space.lanes(*[x] * len(orders)), *vectors)
    uvwz, vuwz, wzuv, vwuz, wuvz = (curvatures[..., place] for place in range(len(orders)))
    law("curvature is skew", "curved", jnp.abs(uvwz + vuwz))
    law("curvature exchanges pairs", "curved", jnp.abs(uvwz - wzuv))
    law("curvature obeys Bianchi", "curved", jnp.abs(uvwz + vwuz + wuvz))
    if manifold.dimension(shape) > 1:
        excess = manifold.sectional_curvature(x, u, v) - manifold.curvature_bound
        law("curvature is within its bound", "curved", excess)

    if hasattr(manifold, "exp"):
        # Law 6: a geodesic starts along v, keeps its speed, and accelerates normally.
        def geodesic(t):
            return _exp(manifold, x, space.scale(t, v))

        def speed_at(t):
            return jax.jvp(geodesic, (t,), (jnp.ones_like(t),))

        t = jnp.asarray(0.7, dtype)
        (here, speed), (_, acceleration) = jax.jvp(speed_at, (t,), (jnp.ones_like(t),))
        law("exp lands on the manifold", "rounding", manifold.residual(here))
        law("exp starts at x", "rounding", space.error(geodesic(jnp.zeros_like(t)), x))
        start = speed_at(jnp.zeros_like(t))[1]
        law("exp leaves with velocity v", "rounding", space.error(start, v))
        law("exp keeps its speed", "curved", jnp.abs(manifold.norm(here, speed) - 1))
        law(
            "exp accelerates normally",
            "curved",
            space.size(manifold.to_tangent(here, acceleration)),
        )

    if hasattr(manifold, "dist"):
        # Laws 4, 5 and 11. All pairs of points at once, each pair a lane: a numerical logarithm is
        # expensive to compile.
        near = _exp(manifold, x, space.scale(0.3, u))
        far = _exp(manifold, x, space.scale(0.4, v))
        lengths = np.geomspace(SHORTEST[size], LONGEST * radius, 10).astype(dtype)
        spread = functools.partial(jax.tree.map, lambda a: a[..., None] * np.ones(10, dtype))
        origin, step = spread(x), space.scale(lengths, spread(v))
        end = _exp(manifold, origin, step)
        left = space.stack(x, near, far, near, x, origin)
        right = space.stack(x, far, near, x, far, end)
        distances, logs = _distances(manifold, left, right)
        itself, there, back, to_near, to_far = (distances[..., i] for i in range(5))
        law("dist to itself is 0", "iterated", itself)
        law("dist is symmetric", "iterated", jnp.abs(there - back))
        law("dist is positive", "exact", -there)
        law("dist obeys the triangle inequality", "iterated", there - to_near - to_far)
        # A distance is a difference of points that are rounded themselves.
        allowed = DISTANCE[size] * lengths + 16 * jnp.finfo(dtype).eps
        name = "dist to exp(v) is ‖v‖ (error ÷ allowed)"
        law(name, "distance", jnp.abs(distances[..., 5:] - lengths) / allowed)
        found = jax.tree.map(lambda a: a[..., 5:], logs)
        law("log undoes exp", "iterated", space.error(found, step))
        again = _exp(manifold, origin, found)
        law("exp undoes log", "iterated", space.error(again, end))

    # Law 15: a lane is a point of its own.
    x_lanes, v_lanes = (jax.tree.map(lambda a: a.reshape((*a.shape[:2], -1)), p) for p in (x, v))
    for verb in ("to_tangent", "retract"):
        together = getattr(manifold, verb)(x_lanes, v_lanes)
        alone = jax.vmap(getattr(manifold, verb), in_axes=-1, out_axes=-1)(x_lanes, v_lanes)
        law(f"{verb} treats lanes apart", "rounding", space.error(together, alone))
    return laws


def _dimension_law(manifold: Manifold, key, shape) -> Law:
    """Law 3: the dimension is the rank of the projection on a tangent space (its trace)."""
    one = shape[:2] if isinstance(shape[0], int) else tuple(part[:2] for part in shape)
    x = manifold.random(key, one)
    leaves, structure = jax.tree.flatten(x)
    sizes = [leaf.size for leaf in leaves]
    starts = np.cumsum(sizes)[:-1]

    def flat_projection(flat):
        parts = jnp.split(flat, starts)
        arrays = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
        projected = manifold.to_tangent(x, structure.unflatten(arrays))
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(projected)])

    matrix = jax.vmap(flat_projection)(jnp.eye(sum(sizes)))
    rank = np.linalg.matrix_rank(np.asarray(matrix), tol=1e-3)
    return Law("dimension is the rank of to_tangent", abs(float(rank) - manifold.dimension(one)), 0)


# --- retractions and gradients -------------------------------------------------------------------


def check_random(
    manifold: Manifold, key: jax.Array, *, shape: Any = (4, 3), draws: int = 20_000
) -> Report:
    """Measures whether random points are spread evenly: no direction is preferred to any other.

    A distribution that no rotation of the rows changes has mean 0, and moments that stay where they
    are when all points are turned.

    Args:
        manifold: A manifold of single matrices, not a `Product`.
        key: A PRNG key.
        shape: The shape of one point.
        draws: How many points to draw.

    Returns:
        A report of the largest deviations, in standard errors estimated from the draws.

    Example:
        >>> import jax
        >>> from fgsgd_jax import Stiefel
        >>> check_random(Stiefel(), jax.random.key(0), shape=(3, 3)).passed
        True
    """
    point_key, turn_key = jax.random.split(key)
    x = np.asarray(manifold.random(point_key, (*shape, draws)), np.float64)
    turn, _ = np.linalg.qr(np.asarray(jax.random.normal(turn_key, (shape[0], shape[0]))))
    flat = x.reshape(-1, draws)
    turned = np.tensordot(turn, x, axes=1).reshape(-1, draws)
    products, turned_products = (a[:, None] * a[None] for a in (flat, turned))
    samples = {
        "the mean is 0": flat,
        "second moments stay when points are turned": products - turned_products,
        "fourth moments stay when points are turned": flat**4 - turned**4,
    }
    if shape[0] == shape[1]:
        samples["determinants have both signs"] = np.sign(np.linalg.det(np.moveaxis(x, -1, 0)))
    return Report(
        [
            Law(f"{name} (standard errors)", float(np.max(_standard_errors(sample))), 5.0)
            for name, sample in samples.items()
        ]
    )


def _standard_errors(sample: np.ndarray) -> np.ndarray:
    """How far the mean over the last axis is from 0."""
    # Entries that are equal to rounding have no spread.
    spread = sample.std(axis=-1) / math.sqrt(sample.shape[-1]) + 1e-7
    return np.abs(sample.mean(axis=-1)) / spread


def check_retraction(
    manifold: Manifold, key: jax.Array, *, shape: Any = (4, 3), order: int = 1
) -> Report:
    """Measures the order of a retraction against `exp`, in float64.

    The error ‖R(x, tv) − exp(x, tv)‖ is computed at 101 lengths from 1e-8 to 1; on a log-log plot
    its slope is 2 for a retraction, 3 for one of second order.

    Args:
        manifold: A manifold with an `exp`.
        key: A PRNG key.
        shape: The shape of one point, or for a `Product` a tuple of shapes.
        order: The order the retraction is expected to have, at least.

    Returns:
        A report of one law: by how much the slope falls short of `order + 1`. A retraction that
        equals `exp` to rounding has no slope and passes.
    """
    lengths = np.logspace(-8, 0, 101)
    with jax.enable_x64(True):
        errors = np.asarray(
            _retraction_errors(manifold, _hashable(shape), jnp.asarray(lengths), key)
        )
    name = f"error of retract has slope {order + 1}"
    if np.all(errors <= 1e-12):
        return Report([Law(name + " (it is exp)", 0.0, 0.1)])
    return Report([Law(name, order + 1 - _slope(lengths, errors), 0.1)])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _retraction_errors(manifold, shape, lengths, key):
    point_key, vector_key = jax.random.split(key)
    space = _Space(manifold)
    x = manifold.random(point_key, shape, lengths.dtype)
    v = space.tangent(vector_key, x)

    def error(t):
        step = space.scale(t, v)
        return space.error(manifold.retract(x, step), manifold.exp(x, step))

    return jax.vmap(error)(lengths)


def check_gradient(
    manifold: Manifold, function: Callable[[Any], jax.Array], x: Any, key: jax.Array
) -> Report:
    """Measures whether a function and its Riemannian gradient agree, in the dtype of x.

    The gradient is the projection of the Euclidean one. It must be tangent, and the error of the
    linear model, |f(R(x, tv)) − f(x) − t⟨grad, v⟩|, must fall with slope 2.

    Args:
        manifold: The manifold.
        function: From a point to a scalar.
        x: A point, in float64 for a slope that can be seen.
        key: A PRNG key.

    Returns:
        A report of two laws.
    """
    space = _Space(manifold)
    gradient = manifold.to_tangent(x, jax.grad(function)(x))
    v = space.tangent(key, x)
    lengths = np.logspace(-8, 0, 101)
    slope_of_model = jnp.sum(manifold.inner(x, gradient, v))

    def error(t):
        value = function(manifold.retract(x, space.scale(t, v)))
        return jnp.abs(value - function(x) - t * slope_of_model)

    errors = np.asarray(jax.jit(jax.vmap(error))(jnp.asarray(lengths)))
    size = jax.tree.leaves(x)[0].dtype.itemsize
    normal = space.error(manifold.to_tangent(x, gradient), gradient)
    return Report(
        [
            Law("gradient is tangent", float(normal), ROUNDING[size]),
            Law("error of the linear model has slope 2", 2 - _slope(lengths, errors), 0.1),
        ]
    )


def _slope(lengths: np.ndarray, errors: np.ndarray, window: int = 20) -> float:
    """The slope of the straightest window of a log-log plot, above rounding.

    Rounding flattens the left end, higher orders bend the right one; the fit with the smallest
    residual lies between them (as in Manopt's `identify_linear_piece`).
    """
    visible = errors > 1e-14 * max(1.0, float(np.max(errors)))
    x, y = np.log10(lengths[visible]), np.log10(errors[visible])
    if len(x) < window:
        return math.nan
    fits = []
    for start in range(len(x) - window + 1):
        part = slice(start, start + window)
        coefficients, residuals, *_ = np.polyfit(x[part], y[part], 1, full=True)
        fits.append((float(residuals[0]) if len(residuals) else 0.0, float(coefficients[0])))
    return min(fits)[1]


# --- optimizers ----------------------------------------------------------------------------------


def check_optimizer(
    tx: optax.GradientTransformation,
    params: Any,
    spec: Collection | None = None,
    *,
    key: jax.Array | None = None,
    steps: int = 20,
) -> Report:
    """Measures what an optimizer on manifolds promises.

    Args:
        tx: The optimizer.
        params: Parameters on their manifolds.
        spec: Their collection, to measure how well steps stay; without it those laws are left out.
        key: A PRNG key for random gradients.
        steps: How many random steps to take.

    Returns:
        A report. Laws that hold or not are measured as 0 or 1.

    Example:
        >>> import jax, optax
        >>> import fgsgd_jax as fg
        >>> params = {"kernel": jax.random.normal(jax.random.key(0), (3, 3, 2, 4))}
        >>> spec = fg.collection(params)
        >>> params = fg.project(params, spec)
        >>> check_optimizer(fg.fgsgd(0.1, spec, momentum=0.9), params, spec).passed
        True
    """
    key = jax.random.key(0) if key is None else key
    tx = optax.with_extra_args_support(tx)
    update = jax.jit(tx.update)
    laws = []

    def law(name, holds):
        laws.append(Law(name, 0.0 if holds else 1.0, 0.0))

    def gradients(step, size=1.0):
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.fold_in(key, step), len(leaves))
        drawn = [
            (size * jax.random.normal(key, leaf.shape)).astype(leaf.dtype)
            for key, leaf in zip(keys, leaves, strict=True)
        ]
        return structure.unflatten(drawn)

    def drift(params):
        measured = {} if spec is None else residual(params, spec)
        return max((float(value) for value in measured.values()), default=0.0)

    state = tx.init(params)
    zero = jax.tree.map(jnp.zeros_like, params)
    still, _ = update(zero, state, params)
    law("a zero gradient moves nothing", _all(still, lambda leaf: leaf == 0))

    present, present_state, worst = params, state, 0.0
    for step in range(steps):
        updates, present_state = update(gradients(step), present_state, present)
        present = optax.apply_updates(present, updates)
        if spec is not None:
            worst = max(worst, drift(present))
    law("steps are finite", _all(present, jnp.isfinite))
    law("updates have the structure and dtypes of the parameters", _alike(updates, params))
    law("the state keeps its structure and dtypes", _alike(present_state, state))

    smallest = min(leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    if spec is not None:
        # Stiefel's residual sums rounding over a Gram matrix; the shorter dtypes round each entry.
        allowed = {2: 2e-2, 4: 1e-5, 8: 1e-12}[min(smallest, 8)]
        laws.append(Law("steps stay on the manifolds", worst, allowed))

    for size in (1e-30, 1e30) if smallest > 2 else (1e-4, 1e4):
        updates, _ = update(gradients(0, size), state, params)
        moved = optax.apply_updates(params, updates)
        law(f"gradients of size {size:g} give finite steps", _all(moved, jnp.isfinite))
        if spec is not None:
            laws.append(Law(f"… that stay on the manifolds ({size:g})", drift(moved), allowed))

    nan = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
    updates, _ = update(nan, state, params)
    law("a NaN gradient stays visible", _all(updates, jnp.isnan))
    law("unknown extra arguments are ignored", _accepts_extra(tx, zero, state, params))
    law("update without params says what is missing", _names_params(tx, zero, state))
    return Report(laws)


def _all(tree, test) -> bool:
    return all(bool(jnp.all(test(leaf))) for leaf in jax.tree.leaves(tree))


def _alike(tree, other) -> bool:
    def shapes(tree):
        return jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.asarray(leaf).dtype), tree)

    return shapes(tree) == shapes(other)


def _accepts_extra(tx, updates, state, params) -> bool:
    try:
        tx.update(updates, state, params, an_unexpected_argument=jnp.ones(()))
    except TypeError:
        return False
    return True


def _names_params(tx, updates, state) -> bool:
    try:
        tx.update(updates, state)
    except ValueError as error:
        return NO_PARAMS_MSG in str(error)
    return False

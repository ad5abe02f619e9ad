"""`LeafSpec`: one weight, cut into components, grouped, and placed on its manifolds.

All that is known of a weight without its values: static, hashable, without a path, so that two
weights that are treated alike share one compiled function. Its verbs take the weight in its own
shape and dtype, cut it into points, ask the manifolds, and put it together again.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec, auto_axes

from fgsgd_jax import _linalg
from fgsgd_jax.geometry import Manifold
from fgsgd_jax.spec._components import Component
from fgsgd_jax.spec._mixture import Mixture, is_slim
from fgsgd_jax.spec._scales import Coordinates, Gamma, Numbers, step_radius
from fgsgd_jax.spec._schemes import Draw, Scheme, channel_counts, draw, summed_axes
from fgsgd_jax.spec._sharding import by_rows, is_open, placed_like

# Of drawn groups: nothing is to be looked at before they are used as indices.
IN_BOUNDS: dict[str, Any] = {"mode": "promise_in_bounds", "wrap_negative_indices": False}


def _on_automatic_axes(function: Callable, first, *rest, whole: bool = False) -> Any:
    """`function(first, *rest)`, sharded like `first` (or not at all), also under Explicit axes.

    Under Explicit axes JAX refuses to choose a sharding for reshapes, scatters and products over
    sharded axes. The choice is left to the compiler, as it is under Auto axes.
    """
    sharding = jax.typeof(first).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return function(first, *rest)
    placed = NamedSharding(sharding.mesh, PartitionSpec()) if whole else sharding
    return auto_axes(function, out_sharding=placed)(first, *rest)  # pyright: ignore[reportCallIssue]


def _keeps_sharding(verb: Callable) -> Callable:
    """A verb whose result is sharded like its first array, also on meshes with Explicit axes."""

    @functools.wraps(verb)
    def wrapped(layer, first, *rest, **static):
        return _on_automatic_axes(lambda *arrays: verb(layer, *arrays, **static), first, *rest)

    return wrapped


def _split_by_rows(verb: Callable) -> Callable:
    """A verb that, where columns are multiplied with each other, has points split by rows.

    It is asked of a layer whose weight is the points, so that they need not be put together, which
    would split them anew, before the result.
    """

    @functools.wraps(verb)
    def wrapped(layer: "LeafSpec", weight, *rest, **static):
        if not layer._multiplies_columns():
            return verb(layer, weight, *rest, **static)
        points = layer.component.to_points(weight)

        def cut(array):
            whole = np.shape(array) == layer.shape
            return by_rows(layer.component.to_points(array)) if whole else array

        def join(array):
            if array.shape != points.shape:
                return array
            # First as points, for rows on several devices are not an axis of the weight.
            joined = layer.component.from_points(placed_like(array, points), layer.shape)
            return placed_like(joined, weight)

        result = verb(layer._of_points(), *jax.tree.map(cut, (weight, *rest)), **static)
        return jax.tree.map(join, result)

    return wrapped


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class LeafSpec:
    """How one weight is cut, grouped and placed.

    Attributes:
        shape: The shape of the weight.
        component: What its axes are.
        scheme: Who shares a group with whom.
        groups: The number of groups in each stacked layer.
        manifolds: The types that are dealt out inside every group.
        seed: The seed of the draw.
        gamma: γ of the scale s = γ/λ; None where weights are at unit scale and stay there.
    """

    shape: tuple[int, ...]
    component: Component
    scheme: Scheme
    groups: int
    manifolds: tuple[Manifold, ...]
    seed: int
    gamma: Gamma = None

    # --- what it is made of --------------------------------------------------------------------

    @property
    def points_shape(self) -> tuple[int, ...]:
        """`(rows, columns, *lanes)`."""
        return self.component.points_shape(self.shape)

    @property
    def components(self) -> int:
        """How many components the weight has."""
        return math.prod(self.points_shape[2:])

    @property
    def stacked(self) -> int:
        """How many layers are stacked in the weight."""
        return channel_counts(self.component, self.shape)[2]

    @property
    def fixes_norm(self) -> bool:
        """Whether no component can change its norm."""
        return all(manifold.fixes_norm for manifold in self.manifolds)

    def draw(self) -> Draw:
        """The groups and manifold_ids drawn for this weight, the same at every call."""
        return _drawn(self)

    def counts(self) -> tuple[int, ...]:
        """How many components lie on each of the manifolds."""
        manifold_ids = self.draw().manifold_ids
        if manifold_ids is None:
            return (self.components,)
        return tuple(np.bincount(manifold_ids.ravel(), minlength=len(self.manifolds)).tolist())

    # --- scale ---------------------------------------------------------------------------------

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """The shape of λ: `(input channels,)`, or `()` where a component holds several of them."""
        inputs = self.component.inputs
        return (math.prod(self.shape[axis] for axis in inputs),) if inputs else ()

    def scale(self, feature_std: jax.Array | None, dtype) -> jax.Array | None:
        """The scale γ/λ in the working dtype of a weight, against `(*lanes)`; None for 1.

        Args:
            feature_std: λ, of the shape `feature_channels`; None for 1.
            dtype: That of the weight.
        """
        if self.gamma is None:
            return None
        dtype = _linalg.working_dtype(dtype)
        given = self.gamma.array() if isinstance(self.gamma, Numbers) else self.gamma
        gamma = jnp.asarray(given, dtype)
        if feature_std is None:
            return gamma
        feature_std = feature_std.astype(dtype)
        if feature_std.ndim:
            component = self.component
            feature_std = feature_std.reshape(
                [self.shape[axis] if axis in component.inputs else 1 for axis in component.lanes]
            )
        return gamma / feature_std

    # --- geometry ------------------------------------------------------------------------------
    #
    # Everywhere s is the scale of the weight, as `scale` gives it: θ = W/s lives on the manifolds.

    @_keeps_sharding
    def project(self, weight: jax.Array, manifold_ids, s=None) -> jax.Array:
        """The nearest weight on the manifolds."""
        projected = self._dealt(manifold_ids).ask("project", self._unit_points(weight, s))
        return self._weight(_times(projected, s), weight.dtype)

    @_keeps_sharding
    @_split_by_rows
    def to_tangent(
        self,
        weight: jax.Array,
        gradient: jax.Array,
        manifold_ids,
        s=None,
        *,
        coordinates: Coordinates,
    ) -> jax.Array:
        """The gradient projected on the tangent spaces at the weight (Algorithm 1, line 5)."""
        _, factor = step_radius(coordinates, s)

        def x():
            return self._unit_points(weight, s)

        def g():
            return _times(self._points(gradient), factor)

        dealt = self._dealt(manifold_ids)
        tangents, _ = self._tangents(dealt, x, g, weight)
        return self._weight(dealt.choose(tangents()), gradient.dtype)

    @_keeps_sharding
    @_split_by_rows
    def retract(
        self,
        weight: jax.Array,
        step: jax.Array,
        manifold_ids,
        s=None,
        s_next=None,
        *,
        coordinates: Coordinates,
    ) -> jax.Array:
        """The update that carries the weight along the tangent step (Algorithm 1, line 7).

        Exactly 0 for components whose step is 0 and whose scale stays: a retraction that divides
        by a norm would otherwise move them by its rounding.
        """
        radius, _ = step_radius(coordinates, s)

        def x():
            return self._unit_points(weight, s)

        def v():
            return self._points(step) if radius is None else self._points(step) / radius

        def decided():
            still = _linalg.inner(v(), v()) == 0  # False for NaN, which must stay visible
            unknown = (None,) * len(self.manifolds)
            return dealt.decided(dealt.step_factors(x(), alike(v()), t, unknown), still)

        dealt, alike = self._dealt(manifold_ids), self._alike
        length = _linalg.stage(lambda: _linalg.norm(v()), weight)
        t = _squarable(jnp.ones((), length.dtype), length)
        numbers = _linalg.stage(decided, weight)
        moved = dealt.displacement(x(), alike(v()), t, *numbers)
        return self._update(x, moved, s, s_next, weight.dtype)

    @_keeps_sharding
    @_split_by_rows
    def descend(
        self,
        weight: jax.Array,
        gradient: jax.Array,
        trace: jax.Array | None,
        manifold_ids,
        groups,
        scales: tuple,
        polish: jax.Array | None,
        after: jax.Array | None,
        rate: jax.Array,
        decay: jax.Array,
        *numbers: jax.Array,
        coordinates: Coordinates,
        nesterov: bool,
        by: Callable | None,
        per_component: bool,
    ) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
        """A whole step: `to_tangent`, momentum, `divide_groups` and `retract`, in fewer passes.

        Args:
            weight: The weight.
            gradient: Its Euclidean gradient.
            trace: The momentum, or None for none.
            manifold_ids: The drawn manifold_ids.
            groups: The drawn groups.
            scales: s of the weight, and that of the weight after the step.
            polish: Whether this is a step that removes rounding where that costs much; None for
                every one of them.
            after: From `_linalg.done`, what has to be computed before.
            rate: The learning rate.
            decay: That of the momentum, not used without.
            *numbers: What `by` takes.
            coordinates: The radius of the manifolds on which the step is taken.
            nesterov: Whether to look ahead.
            by: As for `divide_groups`; None divides by nothing.
            per_component: As for `divide_groups`.

        Returns:
            The update, the new momentum, and what `_linalg.done` says of them.
        """
        s, s_next = scales
        radius, factor = step_radius(coordinates, s)

        # Points and vectors are functions: every stage makes its own, so that none is stored.
        def x():
            return self._unit_points(weight, s)

        def g():
            g = _times(self._points(gradient), factor)
            # Momentum is carried by projection, which is linear: P(g) + d·P(m) = P(g + d·m).
            return g if trace is None else g + decay * self._points(trace)

        def ahead():
            return _times(self._points(gradient), factor) + decay * traced

        def v():
            return dealt.choose(tangents())

        def stage(function):
            return _linalg.stage(function, weight, after=after)

        dealt, new_trace = self._dealt(manifold_ids), None
        tangents, normals = self._tangents(dealt, x, g, weight, after=after)
        entangled = self._entangles_columns(normals)
        if trace is not None:
            # Of its only manifold, the step starts from the normal factor and reads no v.
            traced = stage(v) if entangled and manifold_ids is None else v()
            tangents = functools.partial(self._alike, traced)
            new_trace = self._weight(traced, trace.dtype)
            after = after if after is None else _linalg.done(traced)
            if nesterov:
                tangents, normals = self._tangents(dealt, x, ahead, weight)
        squares = stage(lambda: dealt.squared_norm(tangents(), normals))
        if by is None:
            rate = rate if radius is None else rate / radius
            t = _squarable(-rate, stage(lambda: _linalg.norm(v())))
        else:
            # Divided by τ, no step is longer than the rate.
            rate = jnp.minimum(rate, _linalg.SQUARABLE_STEP[squares.dtype.itemsize])
            if per_component:
                t = -rate / by(stage(lambda: _linalg.norm(v())), *numbers)
            else:
                t = -rate / by(self._group_norms(squares, groups), *numbers)
                t = self._spread(t, groups)
            t = t if radius is None else t / radius

        def still():
            # A step of 0 moves nothing; False for NaN, which must stay visible.
            return (t * t * squares == 0) | (t == 0)

        def decided():
            return dealt.decided(dealt.step_factors(x(), tangents(), t, normals), still())

        def decided_roughly():
            return dealt.decided(dealt.rough_step_factors(squares, t, normals)[0], still())

        def displacement(rough=False):
            return dealt.displacement(x(), tangents(), t, factors, moving, rough=rough)

        rough = dealt.rough_step_factors(squares, t, normals)
        # Squares that are divided by no τ may be more than a float; of large points there are few,
        # and a second way to step compiles for longer than it saves.
        if rough is None or polish is None or by is None or not self._has_small_points():
            factors, moving = stage(decided)
        else:
            exactly = polish | rough[1]
            factors, moving = _linalg.stage_either(
                exactly, decided, decided_roughly, weight, after=after
            )
        if not entangled:
            moved = displacement()
        elif polish is None:
            moved = stage(displacement)
        else:
            roughly = functools.partial(displacement, rough=True)
            moved = _linalg.stage_either(polish, displacement, roughly, weight, after=after)
        decisive = [moved] if entangled else jax.tree.leaves((factors, moving))
        finished = None if after is None else _linalg.done(*decisive)
        return self._update(x, moved, s, s_next, weight.dtype), new_trace, finished

    def residual(self, weight: jax.Array, manifold_ids, s=None) -> jax.Array:
        """The largest distance of a unit component from its manifold, a scalar."""
        return _on_automatic_axes(self._largest_residual, weight, manifold_ids, s, whole=True)

    @_split_by_rows
    def _largest_residual(self, weight: jax.Array, manifold_ids, s) -> jax.Array:
        return jnp.max(self._dealt(manifold_ids).ask("residual", self._unit_points(weight, s)))

    def random(self, key: jax.Array, dtype, manifold_ids, s=None) -> jax.Array:
        """A weight with every component uniform on its manifold."""
        keys = jax.random.split(key, len(self.manifolds))
        drawn = [
            manifold.random(key, self.points_shape, dtype)
            for manifold, key in zip(self.manifolds, keys, strict=True)
        ]
        return self._weight(_times(self._dealt(manifold_ids).choose(drawn), s), dtype)

    @_keeps_sharding
    def divide_groups(
        self, vector: jax.Array, groups, *numbers: jax.Array, by: Callable, per_component: bool
    ) -> jax.Array:
        """The vector with every group divided by a function of its norm.

        The norm of a group is g of Theorem 1, eq. (6); `by` is called as `by(g, *numbers)`, with
        one g per group that broadcasts against the points. With `per_component` each is its own.
        """
        v = self._points(vector)
        if per_component:
            tau = by(_linalg.stage(lambda: _linalg.norm(v), v), *numbers)
        else:
            squares = _linalg.stage(lambda: _linalg.inner(v, v), v)
            tau = self._spread(by(self._group_norms(squares, groups), *numbers), groups)
        return self._weight(v / tau, vector.dtype)

    def _group_norms(self, squares: jax.Array, groups) -> jax.Array:
        """The norm of every group, from the squared norms of its components."""
        if groups is None:
            axes = summed_axes(self.scheme, self.component)
            return _linalg.safe_sqrt(jnp.sum(squares, axis=axes, keepdims=True))
        sums = jnp.zeros(self.stacked * self.groups, squares.dtype)
        if jax.device_count() > 1:  # where flat arrays would be gathered
            sums = sums.at[groups].add(squares, **IN_BOUNDS)
        else:
            # Flat, in windows of one number each: XLA copies the numbers for any other form.
            windows = lax.ScatterDimensionNumbers((1,), (), (0,))
            places, numbers = (jnp.reshape(array, (-1, 1)) for array in (groups, squares))
            sums = lax.scatter_add(sums, places, numbers, windows, mode=IN_BOUNDS["mode"])
        return _linalg.safe_sqrt(sums)

    def _spread(self, numbers: jax.Array, groups) -> jax.Array:
        """One number per group, as one that broadcasts against the components."""
        if groups is None:
            return numbers
        # As stages, for XLA would make the number of a group anew for each of its components, and
        # look it up anew for each of their entries.
        made = _linalg.stage(lambda: numbers, groups)
        return _linalg.stage(lambda: made.at[groups].get(**IN_BOUNDS), groups)

    def _tangents(
        self, dealt: Mixture, x: Callable, g: Callable, weight: jax.Array, after=None
    ) -> tuple[Callable, tuple]:
        """The tangent parts of g() at x(), as a function that makes them, and its factors."""

        def tangents():
            return dealt.tangents(x(), g(), normals)

        normals = _linalg.stage(lambda: dealt.normal_factors(x(), g()), weight, after=after)
        if all(is_slim(normal, len(self.points_shape)) for normal in normals):
            return tangents, normals
        # What takes more than a multiplication to make is made once.
        return functools.partial(self._alike, dealt.choose(tangents())), normals

    def _entangles_columns(self, normals: tuple) -> bool:
        """Whether an entry of a step takes others of its point, and little besides.

        Then it cannot overwrite them. Without a stage XLA writes all such weights side by side,
        each into memory of its own, and copies them back.
        """
        slim = all(is_slim(normal, len(self.points_shape)) for normal in normals)
        return slim and any(manifold.mixes_columns for manifold in self.manifolds)

    def _has_small_points(self) -> bool:
        rows, columns = self.points_shape[:2]
        return rows * columns <= _linalg.UNROLLED_SIZE

    def _alike(self, vector: jax.Array) -> tuple[jax.Array, ...]:
        """The same vector for all manifolds."""
        return (vector,) * len(self.manifolds)

    # --- on several devices ---------------------------------------------------------------------

    def _multiplies_columns(self) -> bool:
        """Whether products of points would gather a weight that is split by columns.

        Small points lie in many lanes, which are split instead; of wide ones rows are multiplied.
        """
        rows, columns = self.points_shape[:2]
        return (
            any(manifold.mixes_columns for manifold in self.manifolds)
            and rows >= columns
            and not self._has_small_points()
            and math.gcd(rows, columns) > 1
            and is_open()
        )

    def _of_points(self) -> "LeafSpec":
        """The same layer, its weight being the points `(rows, columns, *lanes)` themselves."""
        place = {axis: lane for lane, axis in enumerate(self.component.lanes, start=2)}

        def placed(axes):
            return tuple(place[axis] for axis in axes)

        cut = self.component
        own = Component((0,), (1,), placed(cut.inputs), placed(cut.outputs), placed(cut.stack))
        return dataclasses.replace(self, shape=self.points_shape, component=own)

    # --- cutting --------------------------------------------------------------------------------

    def _points(self, weight: jax.Array) -> jax.Array:
        return self.component.to_points(weight).astype(_linalg.working_dtype(weight.dtype))

    def _unit_points(self, weight: jax.Array, s) -> jax.Array:
        points = self._points(weight)
        return points if s is None else points / s

    def _update(self, x: Callable, moved: jax.Array, s, s_next, dtype) -> jax.Array:
        """What carries the weight s·x() to s_next·(x() + moved)."""
        if s is not None:
            moved = s_next * moved + (s_next - s) * x()
        return self._weight(moved, dtype)

    def _weight(self, points: jax.Array, dtype) -> jax.Array:
        return self.component.from_points(points, self.shape).astype(dtype)

    def _dealt(self, manifold_ids) -> Mixture:
        return Mixture(self.manifolds, manifold_ids)


def _times(points: jax.Array, factor) -> jax.Array:
    return points if factor is None else points * jnp.asarray(factor, points.dtype)


def _squarable(t: jax.Array, length: jax.Array) -> jax.Array:
    """T, or less where the square of t·length could overflow. `(*lanes)`."""
    most = _linalg.SQUARABLE_STEP[t.dtype.itemsize]
    product = jnp.abs(t) * length
    return t * jnp.where(product > most, most / product, 1)


@functools.lru_cache(maxsize=1024)
def _drawn(layer: LeafSpec) -> Draw:
    return draw(
        layer.scheme,
        layer.groups,
        len(layer.manifolds),
        layer.component,
        layer.shape,
        layer.seed,
    )

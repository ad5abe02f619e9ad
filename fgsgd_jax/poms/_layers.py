"""`Layer`: one weight, cut into components, grouped, and placed on its manifolds.

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
from jax.sharding import AxisType, NamedSharding, PartitionSpec, auto_axes

from fgsgd_jax import _lanes
from fgsgd_jax.geometry import Manifold
from fgsgd_jax.poms._components import Component
from fgsgd_jax.poms._schemes import Draw, Scheme, channel_counts, draw, summed_axes


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


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Layer:
    """How one weight is cut, grouped and placed.

    Attributes:
        shape: The shape of the weight.
        component: What its axes are.
        scheme: Who shares a group with whom.
        groups: The number of groups in each stacked layer.
        manifolds: The types that are dealt out inside every group.
        seed: The seed of the draw.
    """

    shape: tuple[int, ...]
    component: Component
    scheme: Scheme
    groups: int
    manifolds: tuple[Manifold, ...]
    seed: int

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
        """The groups and kinds drawn for this weight, the same at every call."""
        return _drawn(self)

    def counts(self) -> tuple[int, ...]:
        """How many components lie on each of the manifolds."""
        kinds = self.draw().kinds
        if kinds is None:
            return (self.components,)
        return tuple(np.bincount(kinds.ravel(), minlength=len(self.manifolds)).tolist())

    # --- geometry ------------------------------------------------------------------------------

    @_keeps_sharding
    def project(self, weight: jax.Array, kinds) -> jax.Array:
        """The nearest weight on the manifolds."""
        points = self._points(weight)
        return self._weight(self._ask("project", kinds, points), weight.dtype)

    @_keeps_sharding
    def to_tangent(self, weight: jax.Array, gradient: jax.Array, kinds) -> jax.Array:
        """The gradient projected on the tangent spaces at the weight (Algorithm 1, line 5)."""
        points, vectors = self._points(weight), self._points(gradient)
        return self._weight(self._ask("to_tangent", kinds, points, vectors), gradient.dtype)

    @_keeps_sharding
    def retract(self, weight: jax.Array, step: jax.Array, kinds) -> jax.Array:
        """The update that carries the weight along the tangent step (Algorithm 1, line 7).

        Exactly 0 for components whose step is 0: a retraction that divides by a norm would
        otherwise move them by its rounding.
        """
        points, vectors = self._points(weight), self._points(step)
        moved = self._ask("retract", kinds, points, vectors)
        still = _lanes.inner(vectors, vectors) == 0  # False for NaN, which must stay visible
        return self._weight(jnp.where(still, 0, moved - points), weight.dtype)

    def residual(self, weight: jax.Array, kinds) -> jax.Array:
        """The largest distance of a component from its manifold, a scalar."""

        def largest(weight, kinds):
            return jnp.max(self._ask("residual", kinds, self._points(weight)))

        return _on_automatic_axes(largest, weight, kinds, whole=True)

    def random(self, key: jax.Array, dtype, kinds) -> jax.Array:
        """A weight with every component uniform on its manifold."""
        keys = jax.random.split(key, len(self.manifolds))
        drawn = [
            manifold.random(key, self.points_shape, dtype)
            for manifold, key in zip(self.manifolds, keys, strict=True)
        ]
        return self._weight(_choose(kinds, drawn), dtype)

    @_keeps_sharding
    def divide_groups(
        self, vector: jax.Array, groups, *numbers: jax.Array, by: Callable, per_component: bool
    ) -> jax.Array:
        """The vector with every group divided by a function of its norm.

        The norm of a group is g of Theorem 1, eq. (6); `by` is called as `by(g, *numbers)`, with
        one g per group that broadcasts against the points. With `per_component` each is its own.
        """
        points = self._points(vector)
        g = _lanes.norm(points) if per_component else self._group_norms(points, groups)
        return self._weight(points / by(g, *numbers), vector.dtype)

    def _group_norms(self, points: jax.Array, groups) -> jax.Array:
        squares = _lanes.inner(points, points)
        if groups is None:
            axes = summed_axes(self.scheme, self.component)
            return _lanes.safe_sqrt(jnp.sum(squares, axis=axes, keepdims=True))
        sums = jnp.zeros(self.stacked * self.groups, squares.dtype).at[groups].add(squares)
        return _lanes.safe_sqrt(sums)[groups]

    # --- cutting, and asking the right manifold ------------------------------------------------

    def _points(self, weight: jax.Array) -> jax.Array:
        return self.component.to_points(weight).astype(_lanes.working_dtype(weight.dtype))

    def _weight(self, points: jax.Array, dtype) -> jax.Array:
        return self.component.from_points(points, self.shape).astype(dtype)

    def _ask(self, verb: str, kinds, points: jax.Array, *vectors: jax.Array):
        """The verb of every component's own manifold.

        With several types, all are computed and each lane keeps its own: for small points that is
        cheaper than gathering lanes. A manifold is shown a harmless point and vector in the lanes
        of others, so that its care for extreme input is not spent on them.
        """
        if len(self.manifolds) == 1:
            return getattr(self.manifolds[0], verb)(points, *vectors)
        answers = []
        for position, manifold in enumerate(self.manifolds):
            own = kinds == position
            harmless = manifold.harmless_point(points)
            shown = (jnp.where(own, points, harmless), *(jnp.where(own, v, 0) for v in vectors))
            answers.append(getattr(manifold, verb)(*shown))
        return _choose(kinds, answers)


def _choose(kinds, answers: list[jax.Array]) -> jax.Array:
    chosen = answers[0]
    for position, answer in enumerate(answers[1:], start=1):
        chosen = jnp.where(kinds == position, answer, chosen)
    return chosen


@functools.lru_cache(maxsize=1024)
def _drawn(layer: Layer) -> Draw:
    return draw(
        layer.scheme,
        layer.groups,
        len(layer.manifolds),
        layer.component,
        layer.shape,
        layer.seed,
    )

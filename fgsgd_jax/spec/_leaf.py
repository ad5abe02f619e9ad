"""`LeafSpec`: how one weight is cut into components, grouped, and placed on manifolds.

All that is known of a weight without its values: static, hashable, without a path, so that two
weights that are treated alike share one compiled function. Its verbs take the weight in its own
shape and dtype, cut it into points, call the verbs of the manifolds, and put the result together.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fgsgd_jax import linalg
from fgsgd_jax.geometry import Manifold, overrides
from fgsgd_jax.spec._components import Component
from fgsgd_jax.spec._groups import group_norms, per_component
from fgsgd_jax.spec._mixture import Mixture, select
from fgsgd_jax.spec._scales import Coordinates, Gamma, Numbers, step_radius
from fgsgd_jax.spec._schemes import Draw, Scheme, channel_counts, draw
from fgsgd_jax.spec._sharding import (
    is_partitioned,
    keeps_sharding,
    on_automatic_axes,
    placed_like,
    split_by_rows,
)


def jitted(*static: str) -> Callable:
    """Compiles a method, so that weights that are treated alike are traced once."""
    return functools.partial(jax.jit, static_argnames=("self", *static))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class LeafSpec:
    """How one weight is cut, grouped and placed.

    Attributes:
        shape: The shape of the weight.
        component: What its axes are.
        scheme: Which components form a group.
        groups: The number of groups in each stacked layer.
        manifolds: The manifolds that the components of every group are assigned to.
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

    # --- facts ---------------------------------------------------------------------------------

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

    def overrides(self, verb: str) -> bool:
        """Whether one of the manifolds has its own version of a verb that has a default."""
        return any(overrides(manifold, verb) for manifold in self.manifolds)

    def draw(self) -> Draw:
        """The groups and manifolds drawn for this weight, the same at every call."""
        return _drawn(self)

    def counts(self) -> tuple[int, ...]:
        """How many components lie on each of the manifolds."""
        manifold_ids = self.draw().manifold_ids
        if manifold_ids is None:
            return (self.components,)
        return tuple(np.bincount(manifold_ids.ravel(), minlength=len(self.manifolds)).tolist())

    def manifold(self, manifold_ids: jax.Array | None) -> Manifold | Mixture:
        """The manifold of all components, or the mixture, given the drawn ids."""
        if manifold_ids is None:
            return self.manifolds[0]
        return Mixture(self.manifolds, manifold_ids)

    # --- scale ---------------------------------------------------------------------------------

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """The shape of λ: `(input channels,)`, or `()` where a component holds several of them."""
        inputs, sizes = self.component.inputs, self.component.split_shape(self.shape)
        return (math.prod(sizes[axis] for axis in inputs),) if inputs else ()

    def scale(self, feature_std: jax.Array | None, dtype) -> jax.Array | None:
        """The scale γ/λ in the working dtype of a weight, against `(*lanes)`; None for 1.

        Args:
            feature_std: λ, of the shape `feature_channels`; None for 1.
            dtype: The dtype of the weight.
        """
        if self.gamma is None:
            return None
        dtype = linalg.working_dtype(dtype)
        given = self.gamma.array() if isinstance(self.gamma, Numbers) else self.gamma
        gamma = jnp.asarray(given, dtype)
        if feature_std is None:
            return gamma
        feature_std = feature_std.astype(dtype)
        if feature_std.ndim:
            component, sizes = self.component, self.component.split_shape(self.shape)
            feature_std = feature_std.reshape(
                [sizes[axis] if axis in component.inputs else 1 for axis in component.lanes]
            )
        return gamma / feature_std

    # --- geometry ------------------------------------------------------------------------------
    #
    # s is the scale of the weight, as `scale` returns it: θ = W/s lies on the manifolds.

    @keeps_sharding
    def project(self, weight: jax.Array, manifold_ids, s=None) -> jax.Array:
        """The nearest weight on the manifolds."""
        projected = self.manifold(manifold_ids).project(self.unit_points(weight, s))
        projected = self.to_weight(times(projected, s), weight.dtype)
        # A singular value decomposition has a result on every device.
        split = isinstance(projected, Tracer) and is_partitioned()
        return placed_like(projected, weight) if split else projected

    @jitted("coordinates")
    @keeps_sharding
    @split_by_rows
    def to_tangent(
        self,
        weight: jax.Array,
        gradient: jax.Array,
        manifold_ids,
        s=None,
        *,
        coordinates: Coordinates,
    ) -> jax.Array:
        """The Riemannian gradient of a Euclidean gradient (Algorithm 1, line 5)."""
        _, factor = step_radius(coordinates, s)
        x, g = self.unit_points(weight, s), times(self.points(gradient), factor)
        manifold = self.manifold(manifold_ids)
        v = manifold.to_tangent(x, manifold.representer(x, g))
        return self.to_weight(v, gradient.dtype)

    @jitted()
    @keeps_sharding
    @split_by_rows
    def transport(
        self, weight: jax.Array, vector: jax.Array, previous, manifold_ids, s=None
    ) -> jax.Array:
        """The tangent vector, carried to the weight from the previous one at unit scale.

        `previous` may be None where no manifold has a transport of its own: the default does not
        depend on where the vector comes from.
        """
        y = self.unit_points(weight, s)
        x = y if previous is None else self.points(previous)
        carried = self.manifold(manifold_ids).transport(x, y, self.points(vector))
        return self.to_weight(carried, vector.dtype)

    @jitted("coordinates")
    @keeps_sharding
    @split_by_rows
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
        by a norm would otherwise move them by its rounding. NaN, every entry of it, for components
        whose step is not finite.
        """
        radius, _ = step_radius(coordinates, s)
        x, v = self.unit_points(weight, s), self.points(step)
        v = v if radius is None else v / radius
        moved = self.manifold(manifold_ids).retract(x, v) - x
        length = linalg.norm(v)
        # At rest v itself: exactly 0, with the derivative of the step.
        moved = jnp.where(length == 0, v, moved)
        moved = jnp.where(jnp.isfinite(length), moved, jnp.nan)
        return self.update(x, moved, s, s_next, weight.dtype)

    @jitted("normalizer", "single_components")
    @keeps_sharding
    def divide_by_normalizer(
        self,
        vector: jax.Array,
        weight: jax.Array | None,
        manifold_ids,
        groups,
        s,
        *numbers: jax.Array,
        normalizer: Callable,
        single_components: bool,
    ) -> jax.Array:
        """The tangent vector, every group divided by a function of its norm (Algorithm 1, line 6).

        Args:
            vector: The tangent vector.
            weight: The weight, or None where no manifold has an inner product of its own.
            manifold_ids: The drawn ids of the manifolds.
            groups: The drawn groups.
            s: The scale of the weight.
            *numbers: Further arguments of the normalizer.
            normalizer: Called as `normalizer(g, *numbers)`, with g the norm of a group.
            single_components: Whether every component is its own group.
        """
        manifold, v = self.manifold(manifold_ids), self.points(vector)
        x: Any = None if weight is None else self.unit_points(weight, s)
        if single_components:
            tau = normalizer(linalg.finite_or_nan(manifold.norm(x, v)), *numbers)
        else:
            squares = manifold.inner(x, v, v)
            # An infinite entry makes its group NaN, as a NaN does; squares may overflow.
            squares = jnp.where(jnp.any(jnp.isinf(v), axis=(0, 1)), jnp.nan, squares)
            g = group_norms(self, squares, groups)
            tau = per_component(normalizer(g, *numbers), groups)
        return self.to_weight(v / tau, vector.dtype)

    def residual(self, weight: jax.Array, manifold_ids, s=None) -> jax.Array:
        """The largest distance of a unit component from its manifold, a scalar."""
        return on_automatic_axes(self._largest_residual, weight, manifold_ids, s, replicated=True)

    @split_by_rows
    def _largest_residual(self, weight: jax.Array, manifold_ids, s) -> jax.Array:
        return jnp.max(self.manifold(manifold_ids).residual(self.unit_points(weight, s)))

    def random(self, key: jax.Array, dtype, manifold_ids, s=None) -> jax.Array:
        """A weight with every component drawn at random from its manifold."""
        keys = jax.random.split(key, len(self.manifolds))
        drawn = [
            manifold.random(key, self.points_shape, dtype)
            for manifold, key in zip(self.manifolds, keys, strict=True)
        ]
        return self.to_weight(times(select(manifold_ids, drawn), s), dtype)

    # --- cutting -------------------------------------------------------------------------------

    def points(self, weight: jax.Array) -> jax.Array:
        """The components of a weight, `(rows, columns, *lanes)`, in the working dtype."""
        return linalg.in_working_dtype(self.component.to_points(weight))

    def unit_points(self, weight: jax.Array, s) -> jax.Array:
        """The components at unit scale."""
        points = self.points(weight)
        return points if s is None else points / s

    def to_weight(self, points: jax.Array, dtype) -> jax.Array:
        """The weight, or a vector of its shape, put together from its components."""
        return self.component.from_points(points, self.shape).astype(dtype)

    def update(self, x: jax.Array, moved: jax.Array, s, s_next, dtype) -> jax.Array:
        """The update that carries the weight s·x to s_next·(x + moved)."""
        if s is not None:
            moved = s_next * moved + (s_next - s) * x
        return self.to_weight(moved, dtype)

    def of_points(self) -> "LeafSpec":
        """The leaf spec of a weight that is the points `(rows, columns, *lanes)` themselves."""
        lane_of = {axis: lane for lane, axis in enumerate(self.component.lanes, start=2)}

        def lanes(axes):
            return tuple(lane_of[axis] for axis in axes)

        cut = self.component
        points = Component((0,), (1,), lanes(cut.inputs), lanes(cut.outputs), lanes(cut.stack))
        return dataclasses.replace(self, shape=self.points_shape, component=points)


def times(points: jax.Array, factor) -> jax.Array:
    """The points times a factor, None for 1."""
    return points if factor is None else points * jnp.asarray(factor, points.dtype)


@functools.lru_cache(maxsize=1024)
def _drawn(leaf_spec: LeafSpec) -> Draw:
    return draw(
        leaf_spec.scheme,
        leaf_spec.groups,
        len(leaf_spec.manifolds),
        leaf_spec.component,
        leaf_spec.shape,
        leaf_spec.seed,
    )

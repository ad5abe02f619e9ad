"""`Manifold`: the verbs every manifold answers, and what follows from them.

All manifolds here are sets of matrices with the metric ⟨u, v⟩ = tr(uᵀv) of the space around them,
at unit scale. A verb takes arrays of shape `(rows, columns, *lanes)`: the two leading axes are one
point, each further axis counts points side by side. A number per point has shape `(*lanes)`.

Arguments follow the textbook order, point first: x, y are points, u, v tangent vectors at x, g is
a Euclidean gradient. They are positional, so that the code reads like the equation.

Verbs that have no closed or certified form for a manifold are absent from it (`Stiefel` has a
numerical `log`, which answers NaN where it is not sure; nothing answers a wrong number).
"""

import abc
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from fgsgd_jax import _linalg

# The parts that the fast path takes a verb to.
FACTORS_OF = {
    "to_tangent": ("normal_factor", "remove_normal", "squared_norm"),
    "retract": (
        "step_factor",
        "rough_step_factor",
        "factor_at_rest",
        "displacement",
        "rough_displacement",
    ),
}


class Manifold(abc.ABC):
    """A set of matrices that a component weight may be confined to.

    A subclass is a frozen dataclass registered with `jax.tree_util.register_static`, holds no
    arrays and no shapes, and defines the abstract verbs; see `geometry/README.md` for bringing
    your own. Every verb works on points `(rows, columns, *lanes)` and under `jax.jit`,
    `jax.vmap` and differentiation.
    """

    def __init_subclass__(cls, **options):
        """A subclass that defines a verb anew defines its factors too, or goes without them."""
        super().__init_subclass__(**options)
        for verb, parts in FACTORS_OF.items():
            for part in parts:
                if verb in vars(cls) and part not in vars(cls):
                    setattr(cls, part, getattr(Manifold, part))

    # An upper bound of the sectional curvature at unit scale: c of FG-SGD, eq. (5).
    curvature_bound: float

    # Whether a point cannot change its norm, so that weight decay does nothing to it.
    fixes_norm: bool = True

    # Whether it is about the columns of a matrix, so that a dense kernel is best left whole.
    wants_matrix: bool = False

    # Whether its steps are products of columns with one another, as in xᵀx: large points that are
    # split by columns over devices are then split by rows first.
    mixes_columns: bool = False

    # The step factor with which `displacement` is exactly 0 where t·v is; None if there is no such.
    factor_at_rest: float | None = None

    @abc.abstractmethod
    def project(self, x: jax.Array, /) -> jax.Array:
        """The point of the manifold nearest to x, `(rows, columns, *lanes)`.

        Raises:
            ValueError: If x has no nearest point (a zero matrix or column, say). Inside a jitted
                function, where values are unknown, the result is NaN instead.
        """

    @abc.abstractmethod
    def to_tangent(self, x: jax.Array, g: jax.Array, /) -> jax.Array:
        """The orthogonal projection of g on the tangent space at x."""

    @abc.abstractmethod
    def retract(self, x: jax.Array, v: jax.Array, /) -> jax.Array:
        """A point reached from x along the tangent vector v; agrees with `exp` to first order."""

    @abc.abstractmethod
    def residual(self, x: jax.Array, /) -> jax.Array:
        """How far x is from satisfying the equations of the manifold, `(*lanes)`; 0 on it."""

    @abc.abstractmethod
    def random(self, key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        """Points drawn from the uniform (rotation-invariant) distribution."""

    @abc.abstractmethod
    def dimension(self, shape: tuple[int, ...]) -> int:
        """The dimension of the manifold of one point of shape `(rows, columns, *lanes)`."""

    @abc.abstractmethod
    def second_fundamental_form(self, x: jax.Array, u: jax.Array, v: jax.Array, /) -> jax.Array:
        """The normal part of the derivative of v along u: how the manifold bends in its space."""

    # The same step in parts, for a million points: first the few numbers per point that decide it,
    # its factors, then one expression for all entries. A manifold without factors (None) goes
    # through its verbs; overriding these gains speed and changes nothing else. Factors of the
    # shapes `(*lanes)` and `(columns, *lanes)` are best: where components lie on several manifolds,
    # those share one array.

    def normal_factor(self, x: jax.Array, g: jax.Array, /) -> Any:
        """What `remove_normal` has to know of x and g, in small arrays; None for nothing."""
        del x, g
        return None

    def remove_normal(self, x: jax.Array, g: jax.Array, normal: Any, /) -> jax.Array:
        """`to_tangent(x, g)`, given its `normal_factor`."""
        del normal
        return self.to_tangent(x, g)

    def squared_norm(self, v: jax.Array, normal: Any, /) -> jax.Array:
        """⟨v, v⟩ of the tangent vector, given its `normal_factor`."""
        del normal
        return _linalg.inner(v, v)

    def step_factor(self, x: jax.Array, v: jax.Array, t: jax.Array, normal: Any, /) -> Any:
        """What `displacement` has to know of x and t·v, in small arrays; None for nothing.

        `normal` is the `normal_factor` of v, or of the vector that v is the tangent part of, or
        None where it is not known.
        """
        del x, v, t, normal
        return None

    def rough_step_factor(self, squares: jax.Array, t: jax.Array, normal: Any, /) -> Any:
        """What `step_factor` is if x has no rounding, from small arrays; None if there is no such.

        Args:
            squares: ⟨v, v⟩, `(*lanes)`.
            t: A number per point.
            normal: The `normal_factor` of the vector that v is the tangent part of.

        Returns:
            The factor, and a scalar: whether that would leave more rounding in x + t·v than is in
            x. What it adds in a few such steps, one with the `step_factor` removes.
        """
        del squares, t, normal
        return None

    def displacement(self, x: jax.Array, v: jax.Array, t: jax.Array, factor: Any, /) -> jax.Array:
        """`retract(x, t·v) − x`, given its `step_factor`; t is a number per point, `(*lanes)`."""
        del factor
        return self.retract(x, t * v) - x

    def rough_displacement(
        self, x: jax.Array, v: jax.Array, t: jax.Array, factor: Any, /
    ) -> jax.Array:
        """`displacement` that leaves the rounding of x as it is, if that is cheaper.

        What rounding adds in a few such steps, one `displacement` removes.
        """
        return self.displacement(x, v, t, factor)

    def transport(self, x: jax.Array, y: jax.Array, v: jax.Array, /) -> jax.Array:
        """Carries the tangent vector v from x to y, by projection on the tangent space at y."""
        del x
        return self.to_tangent(y, v)

    def inner(self, x: jax.Array, u: jax.Array, v: jax.Array, /) -> jax.Array:
        """⟨u, v⟩ at x, `(*lanes)`."""
        del x
        return _linalg.inner(u, v)

    def norm(self, x: jax.Array, v: jax.Array, /) -> jax.Array:
        """√⟨v, v⟩ at x, `(*lanes)`; neither overflows nor vanishes where the result does not."""
        del x
        return _linalg.norm(v)

    def curvature(
        self, x: jax.Array, u: jax.Array, v: jax.Array, w: jax.Array, z: jax.Array, /
    ) -> jax.Array:
        """⟨R(u, v)w, z⟩, the curvature tensor at x, `(*lanes)`.

        By the Gauss equation of a submanifold of flat space,
        ⟨R(u, v)w, z⟩ = ⟨II(u, z), II(v, w)⟩ − ⟨II(u, w), II(v, z)⟩
        (do Carmo, *Riemannian Geometry*, 1992, chapter 6, theorem 2.5).
        """
        bend = self.second_fundamental_form
        return self._ambient_inner(bend(x, u, z), bend(x, v, w)) - self._ambient_inner(
            bend(x, u, w), bend(x, v, z)
        )

    def sectional_curvature(self, x: jax.Array, u: jax.Array, v: jax.Array, /) -> jax.Array:
        """The curvature of the plane of u and v at x, `(*lanes)`; NaN where they span none."""
        area = self.inner(x, u, u) * self.inner(x, v, v) - self.inner(x, u, v) ** 2
        return self.curvature(x, u, v, v, u) / area

    def _ambient_inner(self, u, v):
        return _linalg.inner(u, v)

    def harmless_point(self, like: jax.Array) -> jax.Array:
        """A point that no verb stumbles over, to stand in lanes that belong to other manifolds.

        Returns:
            `(rows, columns, 1, …)`, with one axis per lane axis of `like`: ones in the first row.
        """
        first = jnp.zeros(like.shape[:2], like.dtype).at[0].set(1)
        return first.reshape(first.shape + (1,) * (like.ndim - 2))

    def check_component(self, rows: int, columns: int) -> str | None:
        """Why points of rows × columns make no sense on this manifold, or None if they do."""
        if self.dimension((rows, columns)) == 0:
            return (
                f"{self!r} has dimension 0 for components of {rows} × {columns}: they could never "
                "move"
            )
        return None


def require_points(manifold: Manifold, x) -> None:
    """Raises unless x, an array or a shape, has the two axes of a point."""
    shape = x if isinstance(x, tuple) else jnp.shape(x)
    if len(shape) < 2:
        raise ValueError(
            f"{manifold!r} works on arrays of shape (rows, columns, *lanes), but was given shape "
            f"{shape}. Give a vector of n numbers the shape (n, 1)."
        )


def require_nonzero(manifold: Manifold, lengths: jax.Array, what: str) -> None:
    """Raises if some length is 0; silent inside a jitted function, where values are unknown."""
    if isinstance(lengths, Tracer):
        return
    zeros = int(jnp.sum(lengths == 0))
    if zeros:
        raise ValueError(
            f"{manifold!r} has no nearest point to a zero {what}, but {zeros} of "
            f"{math.prod(lengths.shape)} are zero. Initialize the weight at random "
            "(`fgsgd_jax.initialize`) or leave it Euclidean."
        )


def in_working_dtype(x: jax.Array) -> jax.Array:
    """X in the dtype geometry is computed in: bfloat16 and float16 become float32."""
    return x.astype(_linalg.working_dtype(x.dtype))

"""`Manifold`: the operations ("verbs") of every manifold, and defaults for those that follow.

A verb takes arrays of shape `(rows, columns, *lanes)`: the two leading axes are one point, each
further axis counts points. A number per point has shape `(*lanes)`. Manifolds are at unit scale.

Arguments follow the textbook order, point first: x, y are points, u, v tangent vectors at x, g is
a Euclidean gradient. They are positional, so that the code reads like the equation.

Verbs without a closed or certified form for a manifold are absent from it (`Stiefel` has a
numerical `log`, which returns NaN where it cannot certify its result).
"""

import abc
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.core import Tracer

from fgsgd_jax import linalg
from fgsgd_jax._arrays import holds
from fgsgd_jax._keys import require_key
from fgsgd_jax._numbers import checked_float_dtype
from fgsgd_jax._text import shown

# `dimension` by counting needs a square matrix with as many rows as a point has entries.
LARGEST_COUNTED = 1024


class Manifold(abc.ABC):
    """A set of matrices that a component weight may be confined to.

    A subclass is a frozen dataclass registered with `jax.tree_util.register_static`, holds no
    arrays and no shapes, and defines at least `project`, `to_tangent` and `retract`; see
    `geometry/README.md`. Links and optimizers call the verbs of the manifold they are given, so
    every override counts, such as an `inner` or `transport` of its own. Every verb works on points
    `(rows, columns, *lanes)` and under `jax.jit`, `jax.vmap` and differentiation.
    """

    # An upper bound of the sectional curvature at unit scale, as for c of FG-SGD, eq. (5); infinite
    # where none is known.
    curvature_bound: float = math.inf

    # Whether no point can change its norm, so that weight decay does nothing to it.
    fixes_norm: bool = True

    # Whether it constrains the columns of a matrix, so that a dense kernel is best left whole.
    wants_matrix: bool = False

    @abc.abstractmethod
    def project(self, x: jax.Array, /) -> jax.Array:
        """The point of the manifold nearest to x, `(rows, columns, *lanes)`.

        Raises:
            ValueError: If x has no nearest point (a zero matrix or column, say) or has entries that
                are not finite. Inside a jitted function, where values are unknown, the result is
                NaN instead.
        """

    @abc.abstractmethod
    def to_tangent(self, x: jax.Array, g: jax.Array, /) -> jax.Array:
        """The projection of g on the tangent space at x, orthogonal with respect to `inner`."""

    @abc.abstractmethod
    def retract(self, x: jax.Array, v: jax.Array, /) -> jax.Array:
        """A point reached from x along the tangent vector v; agrees with `exp` to first order."""

    def transport(self, x: jax.Array, y: jax.Array, v: jax.Array, /) -> jax.Array:
        """Carries the tangent vector v from x to y; by default its projection at y."""
        del x
        return self.to_tangent(y, v)

    def inner(self, x: jax.Array, u: jax.Array, v: jax.Array, /) -> jax.Array:
        """⟨u, v⟩ at x, `(*lanes)`; by default tr(uᵀv)."""
        del x
        require_points(self, u, v)
        return linalg.inner(u, v)

    def representer(self, x: jax.Array, g: jax.Array, /) -> jax.Array:
        """The vector r with ⟨r, v⟩ = tr(gᵀv) for all v; by default g, as tr(uᵀv) is the default.

        A manifold with an `inner` of its own, (u, v) ↦ tr(uᵀGv), returns G⁻¹g. The Riemannian
        gradient that belongs to the Euclidean gradient g is `to_tangent(x, representer(x, g))`.
        """
        del x
        return g

    def norm(self, x: jax.Array, v: jax.Array, /) -> jax.Array:
        """√⟨v, v⟩ at x, `(*lanes)`; neither overflows nor vanishes where the result does not."""
        require_points(self, v)
        scale = linalg.magnitude(v)
        v = v / scale
        return scale * linalg.safe_sqrt(self.inner(x, v, v))

    def residual(self, x: jax.Array, /) -> jax.Array:
        """How far x is from the manifold, `(*lanes)`; by default ‖x − project(x)‖."""
        return linalg.norm(x - self.project(x))

    def random(self, key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        """Random points; by default projected Gaussian matrices, uniform on spheres."""
        require_key(key)
        require_shape(self, shape)
        dtype = checked_float_dtype("dtype", dtype)
        normal = jax.random.normal(key, shape, linalg.working_dtype(dtype))
        return self.project(normal).astype(dtype)

    def dimension(self, shape: tuple[int, ...]) -> int:
        """The dimension of the manifold of one point of shape `(rows, columns, *lanes)`.

        By default it is counted, as the trace of the projection on a tangent space.

        Raises:
            NotImplementedError: If a point has too many entries to count.
        """
        require_shape(self, shape)
        rows, columns = shape[:2]
        size = rows * columns
        if size > LARGEST_COUNTED:
            raise NotImplementedError(
                f"{self!r} counts its dimension for points of at most {LARGEST_COUNTED} entries, "
                f"but these are {rows} × {columns}; define `dimension`."
            )
        with jax.ensure_compile_time_eval():
            x = self.random(jax.random.key(0), (rows, columns))
            basis = jnp.eye(size).reshape(rows, columns, size)
            x = jnp.broadcast_to(x[..., None], basis.shape)
            return round(float(jnp.sum(self.to_tangent(x, basis) * basis)))

    def second_fundamental_form(self, x: jax.Array, u: jax.Array, v: jax.Array, /) -> jax.Array:
        """The normal part of the derivative of v along u: how the manifold bends in its space.

        By default the derivative of the projection on the tangent space, applied to v, along u.
        """
        return jax.jvp(lambda y: self.to_tangent(y, v), (x,), (u,))[1]

    def curvature(
        self, x: jax.Array, u: jax.Array, v: jax.Array, w: jax.Array, z: jax.Array, /
    ) -> jax.Array:
        """⟨R(u, v)w, z⟩, the curvature tensor at x, `(*lanes)`.

        By the Gauss equation of a submanifold of flat space,
        ⟨R(u, v)w, z⟩ = ⟨II(u, z), II(v, w)⟩ − ⟨II(u, w), II(v, z)⟩
        (do Carmo, *Riemannian Geometry*, 1992, chapter 6, theorem 2.5). For an `inner` that is the
        same at every point.
        """
        bend = self.second_fundamental_form
        first = self.inner(x, bend(x, u, z), bend(x, v, w))
        return first - self.inner(x, bend(x, u, w), bend(x, v, z))

    def sectional_curvature(self, x: jax.Array, u: jax.Array, v: jax.Array, /) -> jax.Array:
        """The curvature of the plane of u and v at x, `(*lanes)`; NaN if they are parallel."""
        area = self.inner(x, u, u) * self.inner(x, v, v) - self.inner(x, u, v) ** 2
        return self.curvature(x, u, v, v, u) / area

    def check_component(self, rows: int, columns: int) -> str | None:
        """Why points of rows × columns make no sense on this manifold, or None if they do."""
        countable = rows * columns <= LARGEST_COUNTED
        if countable and self.dimension((rows, columns)) == 0:
            return (
                f"{self!r} has dimension 0 for components of {rows} × {columns}: they could never "
                "move"
            )
        return None


NOT_FINITE = "Find what made them, such as steps that diverged, or restore a checkpoint."
"""What to do about a weight with NaN or infinite entries."""


def overrides(manifold: Manifold, verb: str) -> bool:
    """Whether a manifold has its own version of a verb that `Manifold` has a default for."""
    return getattr(type(manifold), verb) is not getattr(Manifold, verb)


_WORKS_ON = "works on arrays of shape (rows, columns, *lanes), but was given"


def require_points(manifold: Manifold, x: Any, *others: Any) -> None:
    """Raises unless x is an array of points, and so are others, with as many rows and columns.

    Raises:
        TypeError: If one is no array of real numbers.
        ValueError: If one has other axes.
    """
    for array in (x, *others):
        if not (hasattr(array, "shape") and hasattr(array, "dtype")):
            raise TypeError(f"{manifold!r} {_WORKS_ON} {shown(array)}.")
        if not holds(array.dtype):
            raise TypeError(
                f"{manifold!r} works on arrays of real numbers, but was given dtype {array.dtype}."
            )
        require_shape(manifold, array.shape)
        if array.shape[:2] != x.shape[:2]:
            raise ValueError(
                f"{manifold!r} was given points of shape {x.shape} together with an array of shape "
                f"{array.shape}. Give arrays with as many rows and columns."
            )


def require_shape(manifold: Manifold, shape: Any) -> None:
    """Raises unless a shape has the two axes of a point."""
    if not isinstance(shape, (tuple, list)):
        raise TypeError(
            f"A shape of points of {manifold!r} is a tuple (rows, columns, *lanes), but "
            f"{shown(shape)} was given."
        )
    if len(shape) < 2:
        raise ValueError(
            f"{manifold!r} {_WORKS_ON} shape {tuple(shape)}. Give a vector of n numbers the shape "
            "(n, 1)."
        )
    if not all(_is_size(size, least=1 if axis < 2 else 0) for axis, size in enumerate(shape)):
        raise ValueError(
            f"{manifold!r} {_WORKS_ON} shape {tuple(shape)}. Give points with one row and one "
            "column at least."
        )


def _is_size(size: Any, least: int) -> bool:
    """Whether this can be the size of an axis, which in an exported program may be a symbol."""
    whole = isinstance(size, (int, np.integer))
    return bool(size >= least) if whole else bool(export.is_symbolic_dim(size))


def require_nonzero(manifold: Manifold, lengths, what: str) -> None:
    """Raises if some length is 0 or not finite; silent for a tracer, whose values are unknown.

    Args:
        manifold: The manifold, for the message.
        lengths: A length of every component, `(*lanes)`, or of every column, `(columns, *lanes)`.
        what: What a length of 0 means: "zero component", "zero column", …
    """
    if isinstance(lengths, Tracer) or bool(jnp.all((lengths > 0) & jnp.isfinite(lengths))):
        return
    lengths = np.asarray(lengths)
    bad = ~((lengths > 0) & np.isfinite(lengths))
    first = [int(index) for index in np.unravel_index(bad.argmax(), bad.shape)]
    advice = "Initialize the weight at random (`fgsgd_jax.initialize`) or leave it Euclidean."
    if not np.isfinite(lengths[tuple(first)]):
        what = f"{what.split()[-1]} with NaN or infinite entries"
        advice = NOT_FINITE
    where = ""
    if "column" in what:
        where = f", first column {first[0]} of component {first[1:]}"
    elif first:
        where = f", first component {first}"
    raise ValueError(
        f"{manifold!r} has no nearest point to a {what}, but {bad.sum()} of {bad.size} are such"
        f"{where}. {advice}"
    )

"""Products: several manifolds side by side, as one."""

import dataclasses
from typing import Any, final

import jax
import jax.numpy as jnp

from fgsgd_jax._keys import require_key
from fgsgd_jax._text import shown
from fgsgd_jax.geometry._manifold import Manifold


@final
@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, init=False)
class Product(Manifold):
    """The Cartesian product of manifolds.

    A point is a tuple of points, one per factor, each `(rows, columns, *lanes)`; sizes may differ
    between factors, lanes may not. Verbs act factor by factor, inner products add, distances add
    in squares, and a plane that spans two factors is flat, so the curvature is bounded by the
    largest bound of a factor and by 0 from below where the factors are.

    Products of equal matrices that live in one weight need no tuples: `fgsgd_jax.pom` groups the
    lanes of one array.

    Example:
        >>> import jax.numpy as jnp
        >>> from fgsgd_jax import Oblique, Sphere
        >>> pair = Product(Sphere(), Oblique())
        >>> x = pair.project((jnp.ones((2, 2)), jnp.ones((4, 1))))
        >>> x[1].T
        Array([[0.5, 0.5, 0.5, 0.5]], dtype=float32)

    References:
        Ozay, 2019, section 2 (products of manifolds, POMs).
    """

    factors: tuple[Manifold, ...]

    def __init__(self, *factors: Manifold):
        if not factors or not all(isinstance(factor, Manifold) for factor in factors):
            raise TypeError(
                "Product takes one or more manifolds, as in Product(Sphere(), Stiefel()), not "
                f"{factors!r}."
            )
        object.__setattr__(self, "factors", factors)

    def __repr__(self) -> str:
        return f"Product({', '.join(map(repr, self.factors))})"

    @property
    def curvature_bound(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return max(0.0, *(factor.curvature_bound for factor in self.factors))

    @property
    def fixes_norm(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return all(factor.fixes_norm for factor in self.factors)

    def _each(self, verb: str, *points):
        for point in points:
            if not isinstance(point, tuple) or len(point) != len(self.factors):
                given = f"{len(point)}" if isinstance(point, tuple) else type(point).__name__
                raise ValueError(
                    f"A point of {self!r} is a tuple of {len(self.factors)} arrays, but was given "
                    f"{given}."
                )
        return tuple(
            getattr(factor, verb)(*parts)
            for factor, *parts in zip(self.factors, *points, strict=True)
        )

    def project(self, x, /):
        return self._each("project", x)

    def to_tangent(self, x, g, /):
        return self._each("to_tangent", x, g)

    def retract(self, x, v, /):
        return self._each("retract", x, v)

    def transport(self, x, y, v, /):
        return self._each("transport", x, y, v)

    def inner(self, x, u, v, /):
        return sum(self._each("inner", x, u, v))

    def representer(self, x, g, /):
        return self._each("representer", x, g)

    def norm(self, x, v, /):
        return jnp.linalg.norm(jnp.stack(self._each("norm", x, v)), axis=0)

    def exp(self, x, v, /):
        return self._each("exp", x, v)

    def log(self, x, y, /):
        return self._each("log", x, y)

    def dist(self, x, y, /):
        return jnp.linalg.norm(jnp.stack(self._each("dist", x, y)), axis=0)

    def residual(self, x, /):
        return jnp.max(jnp.stack(self._each("residual", x)), axis=0)

    def random(self, key, shape, dtype=jnp.float32):
        """A uniform point; `shape` is one shape for all factors, or a tuple of one each."""
        require_key(key)
        keys = jax.random.split(key, len(self.factors))
        return tuple(
            factor.random(key, one, dtype)
            for factor, key, one in zip(self.factors, keys, self._shapes(shape), strict=True)
        )

    def dimension(self, shape):
        return sum(
            factor.dimension(one)
            for factor, one in zip(self.factors, self._shapes(shape), strict=True)
        )

    def _shapes(self, shape: Any) -> tuple[Any, ...]:
        count = len(self.factors)
        parts = tuple(shape) if isinstance(shape, (tuple, list)) else ()
        if parts and not isinstance(parts[0], (tuple, list)):
            return (parts,) * count
        if len(parts) != count:
            raise ValueError(
                f"The shape of points of {self!r} is (rows, columns, *lanes) for all factors, or a "
                f"tuple of {count} such shapes, but {shown(shape)} was given."
            )
        return parts

    def check_component(self, rows, columns):
        return (
            f"{self!r} is a manifold of tuples, but components of {rows} × {columns} are single "
            f"matrices; list its factors instead, as {self.factors!r}, to mix them"
        )

    def second_fundamental_form(self, x, u, v, /):
        return self._each("second_fundamental_form", x, u, v)

"""The Stiefel manifold: orthonormal columns, and three retractions."""

import dataclasses
from typing import Literal, final, get_args

import jax
import jax.numpy as jnp
from jax.core import Tracer

from fgsgd_jax import linalg
from fgsgd_jax._keys import require_key
from fgsgd_jax._numbers import checked_float_dtype
from fgsgd_jax.geometry import _stiefel_geodesics as geodesics
from fgsgd_jax.geometry._manifold import (
    Manifold,
    require_nonzero,
    require_points,
    require_shape,
)
from fgsgd_jax.geometry._polar_factor import checked_polar_factor, polar_factor

Retraction = Literal["polar", "qr", "cayley"]

# The condition of the Cayley system is the squared length of the step. Up to this length the
# result misses orthonormality by at most 1e-3, which two polishing steps remove; longer steps are
# shortened.
LONGEST_CAYLEY_STEP = {4: 1e2, 8: 1e6}


@final
@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Stiefel(Manifold):
    """Matrices with orthonormal columns, xᵀx = 1, under the Euclidean metric tr(uᵀv).

    Points with more columns than rows have orthonormal rows instead: always the shorter side. The
    tangent space at x is every v with xᵀv + vᵀx = 0; sectional curvature lies in [−½, 1].

    Attributes:
        retraction: `"polar"`, the orthogonal factor of x + v (nearest point, second order);
            `"qr"`, the Q of its QR decomposition with a positive diagonal (first order);
            `"cayley"`, the Cayley transform (second order for square points).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> stiefel = Stiefel()
        >>> x = stiefel.random(jax.random.key(0), (3, 2))
        >>> v = stiefel.to_tangent(x, jnp.ones((3, 2)))
        >>> y = stiefel.retract(x, v)
        >>> bool(jnp.allclose(y.T @ y, jnp.eye(2), atol=1e-6))
        True

    References:
        Edelman, Arias & Smith, *The geometry of algorithms with orthogonality constraints*, 1998;
        Absil, Mahony & Sepulchre, 2008, example 4.1.3; Zimmermann & Stoye, *High curvature means
        low rank* (curvature bounds), 2024; Ozay, 2019, section 2.
    """

    retraction: Retraction = "polar"

    curvature_bound = 1.0
    wants_matrix = True

    def __post_init__(self):
        if self.retraction not in get_args(Retraction):
            raise ValueError(
                f"Stiefel has the retractions {', '.join(get_args(Retraction))}; "
                f"{self.retraction!r} is none of them."
            )

    def __repr__(self) -> str:
        default = self.retraction == "polar"
        return "Stiefel()" if default else f"Stiefel(retraction={self.retraction!r})"

    def project(self, x, /):
        require_points(self, x)
        return _tall(self._project, x)

    def to_tangent(self, x, g, /):
        require_points(self, x, g)
        return _tall(geodesics.to_tangent, x, g)

    def retract(self, x, v, /):
        require_points(self, x, v)
        route = {"polar": linalg.polar_step, "qr": _qr_step, "cayley": _cayley_step}
        return _tall(route[self.retraction], x, v)

    def exp(self, x, v, /):
        """The geodesic of the Euclidean metric.

        NaN beyond a length of about 3e3, of square points about 2e4. The rounding of v moves the
        end by eps·‖v‖, and the matrix exponential multiplies that; in float32 two correct digits
        are left there.
        """
        require_points(self, x, v)
        return _tall(geodesics.exp, x, v)

    def log(self, x, y, /):
        """The shortest v with exp(x, v) = y, found numerically; NaN where that is not certain.

        A result is certain when its exponential is y to rounding and its length is below π, the
        injectivity radius of the manifold: within it the exponential is one to one, so no shorter
        vector exists. Pairs further apart, or in different components of O(n), give NaN.

        References:
            Zimmermann, *A matrix-algebraic algorithm for the Riemannian logarithm on the Stiefel
            manifold*, 2017; Zimmermann & Stoye, *The injectivity radius of the compact Stiefel
            manifold under the Euclidean metric*, 2024 (the radius is π).
        """
        require_points(self, x, y)
        return _tall(geodesics.log, x, y)

    def dist(self, x, y, /):
        """‖log(x, y)‖, or NaN where `log` is NaN."""
        return linalg.norm(self.log(x, y))

    def residual(self, x, /):
        require_points(self, x)
        return _tall(
            lambda x: linalg.norm(linalg.gram_error(x)), linalg.in_working_dtype(x), point=False
        )

    def random(self, key, shape, dtype=jnp.float32):
        """Uniform (Haar) points: the Q of a Gaussian matrix, its sign fixed by a positive R."""
        require_key(key)
        require_shape(self, shape)
        dtype = checked_float_dtype("dtype", dtype)
        normal = jax.random.normal(key, shape, linalg.working_dtype(dtype))
        return _tall(linalg.gram_schmidt, normal).astype(dtype)

    def dimension(self, shape):
        require_shape(self, shape)
        long, short = max(shape[:2]), min(shape[:2])
        return long * short - short * (short + 1) // 2

    def check_component(self, rows, columns):
        if min(rows, columns) == 1:
            return (
                f"{self!r} needs matrices, but components of {rows} × {columns} are vectors, on "
                "which it is the sphere; ask for Sphere()"
            )
        return super().check_component(rows, columns)

    def second_fundamental_form(self, x, u, v, /):
        return _tall(
            lambda x, u, v: -linalg.matmul(x, linalg.symmetric(linalg.gram(u, v))), x, u, v
        )

    def _project(self, x):
        # Once, before training: the only singular value decomposition of the library.
        working = linalg.in_working_dtype(x)
        if isinstance(working, Tracer):
            return polar_factor(working).astype(x.dtype)
        nearest, defined = checked_polar_factor(working)
        require_nonzero(self, defined, "rank-deficient component")
        return nearest.astype(x.dtype)


def _tall(function, *points, point: bool = True):
    """Calls a function of tall points on points of either shape, turning wide ones over."""
    if points[0].shape[0] >= points[0].shape[1]:
        return function(*points)
    result = function(*map(linalg.transpose, points))
    return linalg.transpose(result) if point else result


def _qr_step(x, v):
    """The Q of x + v; NaN where its columns are linearly dependent up to rounding."""
    y = x + linalg.shorten(v, linalg.LONGEST_STEP[x.dtype.itemsize])
    q = linalg.gram_schmidt(y)
    # Without rank, a column of Q is what rounding left of a column of y, and nearly normal to it.
    shares = linalg.column_inner(q, y) / linalg.column_norm(y)
    # From a tangent step no share is below 1/LONGEST_STEP.
    smallest = 0.1 / linalg.LONGEST_STEP[x.dtype.itemsize]
    return jnp.where(jnp.min(shares, axis=0) > smallest, q, jnp.nan)


def _cayley_step(x, v):
    """(1 − ½W)⁻¹(1 + ½W)x with W = Pv·xᵀ − x·(Pv)ᵀ, P = 1 − ½xxᵀ, without a rows × rows matrix.

    With A = xᵀv the 2p × 2p system of the Sherman-Morrison-Woodbury form folds into one of p × p:
    y = (2x + v − xA)·T⁻¹ − x, T = 1 − ½A + ¼(A² + vᵀv). The symmetric part of T is at least 1,
    since A² + vᵀv = vᵀ(1 − xxᵀ)v, so elimination needs no pivoting.
    """
    v = linalg.shorten(v, LONGEST_CAYLEY_STEP[x.dtype.itemsize])
    a = linalg.skew(linalg.gram(x, v))
    t = linalg.gram(v, v) + linalg.matmul(a, a)
    t = linalg.identity(x.shape[1], x.shape[1], x) - 0.5 * a + 0.25 * linalg.symmetric(t)
    moved = 2 * x + v - linalg.matmul(x, a)
    solution = linalg.solve(linalg.transpose(t), linalg.transpose(moved))
    return linalg.polish(linalg.polish(linalg.transpose(solution) - x))

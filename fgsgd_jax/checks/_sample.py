"""`Sample`: the random points and vectors at which the laws of a manifold are measured."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from fgsgd_jax.checks import _points

T = TypeVar("T")


class Subject(NamedTuple):
    """A manifold with points of one shape and dtype: the static argument of a jitted check.

    Attributes:
        manifold: The manifold.
        shape: The shape of the points, or a tuple of shapes.
        dimension: What `manifold.dimension` returns for one point of that shape.
        dtype: float32 or float64.
        injectivity_radius: Up to where `exp` and `log` must be inverse to each other.
    """

    manifold: Any  # a Manifold that may have `exp`, `log` and `dist`
    shape: Any
    dimension: int
    dtype: Any
    injectivity_radius: float


class Sample:
    """Random points and vectors of a manifold, drawn inside the jitted function of a check.

    Attributes:
        subject: What was sampled.
        manifold: The manifold.
        x: Points.
        y: Other points.
        u: Tangent vectors at x, of norm 1; so are v, w and z.
        g: Arrays like x, not tangent; so is h.
    """

    def __init__(self, subject: Subject, key: jax.Array):
        self.subject = subject
        self.results: dict[Callable, Any] = {}  # by the function that is decorated with `shared`
        self.manifold = manifold = subject.manifold
        keys = iter(jax.random.split(key, 8))
        x, y = (manifold.random(next(keys), subject.shape, subject.dtype) for _ in range(2))
        self.x, self.y = x, y
        self.u, self.v, self.w, self.z = (
            _points.unit_tangent(manifold, next(keys), x) for _ in range(4)
        )
        self.g, self.h = (_points.gaussian_like(next(keys), x) for _ in range(2))

    def to_tangent(self, g):
        """The projection of g on the tangent space at x."""
        return self.manifold.to_tangent(self.x, g)

    def inner(self, u, v) -> jax.Array:
        """⟨u, v⟩ at x."""
        return self.manifold.inner(self.x, u, v)

    def number(self, value: float) -> jax.Array:
        """A scalar of the dtype of the points."""
        return jnp.asarray(value, self.subject.dtype)


def shared(compute: Callable[[Sample], T]) -> Callable[[Sample], T]:
    """Decorates a function of a sample that several laws call, so that it runs once per sample.

    A law must call it directly, not within a function that is transformed by JAX: the stored result
    would hold tracers of that transformation.
    """

    @functools.wraps(compute)
    def computed(sample: Sample) -> T:
        if compute not in sample.results:
            sample.results[compute] = compute(sample)
        return sample.results[compute]

    return computed


def require_attributes(*names: str) -> Callable[[Subject], str | None]:
    """The obstacle of laws about verbs and numbers that a manifold need not have."""

    def obstacle(subject: Subject) -> str | None:
        missing = [f"`{name}`" for name in names if not hasattr(subject.manifold, name)]
        return f"{subject.manifold!r} has no {' and no '.join(missing)}" if missing else None

    return obstacle

"""`Sample`: the random points and vectors at which the laws of a manifold are measured."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from fgsgd_jax.checks import _points
from fgsgd_jax.geometry import Manifold

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


def require_manifold(manifold: Any) -> None:
    """Raises a TypeError unless a manifold is an instance of `Manifold`."""
    if isinstance(manifold, type) and issubclass(manifold, Manifold):
        raise TypeError(
            f"A check needs a manifold, but was given the class {manifold.__name__}. Make an "
            f"instance of it: {manifold.__name__}()."
        )
    if not isinstance(manifold, Manifold):
        raise TypeError(
            f"A check needs a manifold, such as Sphere(), but was given {manifold!r}. A manifold "
            "of your own derives from fgsgd_jax.Manifold."
        )


# How many points or vectors the verbs take, and whether they return such or a number per point.
VERBS = {
    "project": (1, True),
    "to_tangent": (2, True),
    "retract": (2, True),
    "transport": (3, True),
    "representer": (2, True),
    "inner": (3, False),
    "norm": (2, False),
    "residual": (1, False),
}


def require_shapes(subject: Subject) -> None:
    """Raises a ValueError if a verb of the manifold returns arrays of a wrong shape."""
    manifold, shape, dtype = subject.manifold, subject.shape, subject.dtype
    drawn = jax.eval_shape(lambda key: manifold.random(key, shape, dtype), jax.random.key(0))
    x = drawn if isinstance(drawn, tuple) else jax.ShapeDtypeStruct(shape, dtype)
    of_points = _shapes(x)
    of_numbers = jax.tree.leaves(x)[0].shape[2:]
    for verb, (arguments, returns_points) in VERBS.items():
        found = _shapes(jax.eval_shape(getattr(manifold, verb), *[x] * arguments))
        _require_shape(manifold, verb, found, of_points if returns_points else of_numbers)
    _require_shape(manifold, "random", _shapes(drawn), of_points)


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: tuple(leaf.shape), tree)


def _require_shape(manifold: Any, verb: str, found: Any, right: Any) -> None:
    if found != right:
        raise ValueError(
            f"`{verb}` of {manifold!r} returns shape {found} where it should return {right}: verbs "
            "take points (rows, columns, *lanes), and a number per point has shape (*lanes)."
        )


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

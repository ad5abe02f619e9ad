"""`check_manifold`: the laws of a manifold at random points."""

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fgsgd_jax._keys import require_key
from fgsgd_jax._numbers import checked_float_dtype, require_finite
from fgsgd_jax.checks import _basic_laws, _geodesic_laws
from fgsgd_jax.checks._laws import LawTable
from fgsgd_jax.checks._points import checked_shape
from fgsgd_jax.checks._report import Report
from fgsgd_jax.checks._sample import Sample, Subject, require_manifold, require_shapes
from fgsgd_jax.geometry import Manifold

LAWS = LawTable(_basic_laws.LAWS | _geodesic_laws.LAWS)


def check_manifold(
    manifold: Manifold,
    key: jax.Array,
    *,
    shape: Any = (4, 3),
    dtype: Any = jnp.float32,
    injectivity_radius: float = math.pi,
    laws: str | Iterable[str] | None = None,
    tolerances: Mapping[str, float] | None = None,
) -> Report:
    """Measures the laws of a manifold at random points.

    Laws about `exp`, `log` and `dist` are left out for a manifold that does not have them.

    Args:
        manifold: The manifold.
        key: A PRNG key.
        shape: The shape of the points, `(rows, columns, *lanes)`; for a `Product` one shape for all
            factors or a tuple of shapes.
        dtype: float32, or float64 where it is enabled.
        injectivity_radius: Up to where `exp` and `log` must be inverse to each other.
        laws: The names of the laws to measure, as a report shows them; None measures all that
            apply. Only what they need is compiled.
        tolerances: Tolerances that replace the default ones, by name of the law.

    Returns:
        A report. Errors are absolute for unit vectors, relative for distances.

    Raises:
        TypeError: If the manifold is a class, or not a `Manifold`, or the key is no key of JAX.
        ValueError: If there is no law of a given name, it does not apply to the manifold, a verb
            returns arrays of a wrong shape, or the dtype is another.

    Example:
        >>> import jax
        >>> from fgsgd_jax import Sphere
        >>> report = check_manifold(
        ...     Sphere(),
        ...     jax.random.key(0),
        ...     shape=(3, 3),
        ...     laws=("project keeps points", "to_tangent is linear"),  # without it, all of them
        ...     tolerances={"project keeps points": 1e-4},
        ... )
        >>> report.passed, sorted(report[0]._asdict())
        (True, ['measured', 'name', 'tolerance'])
        >>> [(law.name, law.tolerance, law.passed) for law in report]
        [('project keeps points', 0.0001, True), ('to_tangent is linear', 1e-06, True)]
    """
    require_manifold(manifold)
    require_key(key)
    shape = checked_shape(shape)
    dtype = checked_float_dtype("dtype", dtype)
    if dtype not in (jnp.float32, jnp.float64):
        raise ValueError(
            f"check_manifold measures laws in float32 or float64, not in {dtype}: shorter dtypes "
            "have no tolerances. Check the manifold in float32."
        )
    require_finite("injectivity_radius", injectivity_radius)
    if injectivity_radius <= 0:
        raise ValueError(f"injectivity_radius must be above 0, got {injectivity_radius!r}.")
    dimension = manifold.dimension(_shape_of_a_point(shape))
    subject = Subject(manifold, shape, dimension, dtype, float(injectivity_radius))
    selected = LAWS.select("check_manifold", subject, laws, tolerances)
    if laws is None:  # single laws trace only the verbs that they need
        require_shapes(subject)
    return LAWS.report(_measure(subject, selected, key), tolerances, dtype.itemsize)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _measure(subject: Subject, laws: tuple[str, ...], key: jax.Array) -> dict[str, jax.Array]:
    """The laws of one sample, in one compiled function: compilation is most of the time."""
    sample = Sample(subject, key)
    return {name: jnp.max(LAWS[name].measure(sample)) for name in laws}


def _shape_of_a_point(shape: Any) -> Any:
    """A shape, or a tuple of shapes, without the lanes."""
    return tuple(shape[:2]) if isinstance(shape[0], int) else tuple(part[:2] for part in shape)

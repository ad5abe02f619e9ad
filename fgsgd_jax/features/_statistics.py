"""Statistics of the features that enter every kernel of a network, whatever framework it is in.

Moments are taken per batch in two passes, around a first estimate of the mean, and joined over
batches in float64 by Chan, Golub and LeVeque's rule. The result is that of two passes over all data
to 1e-6, also where the mean is a thousand standard deviations.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fgsgd_jax import _linalg
from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.features import _jaxpr
from fgsgd_jax.spec import Collection


class Moments(NamedTuple):
    """First and second moments of many feature vectors.

    Attributes:
        shift: A first estimate of the mean, to rounding.
        mean: The mean of the features less `shift`; tiny, it carries the digits `shift` lost.
        squares: The sum of the squared deviations from the mean.
    """

    shift: Any
    mean: Any
    squares: Any


def moments(x: jax.Array) -> Moments:
    """The moments over the first axis: `(positions, *channels)` → `(*channels)` each."""
    x = x.astype(_linalg.working_dtype(x.dtype))
    shift = jnp.mean(x, axis=0)
    deviation = x - shift  # exact to rounding of itself, however large the mean is
    mean = jnp.mean(deviation, axis=0)
    return Moments(shift, mean, jnp.sum((deviation - mean) ** 2, axis=0))


class _Pool(NamedTuple):
    """Joined moments in float64."""

    count: int
    mean: np.ndarray
    squares: np.ndarray

    def joined(self, other: "_Pool") -> "_Pool":
        """Chan, Golub and LeVeque's rule for the moments of a union."""
        count = self.count + other.count
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.count / count)
        between = difference**2 * (self.count * other.count / count)
        return _Pool(count, mean, self.squares + other.squares + between)


def _pool_of(meeting: _jaxpr.Meeting, shape: tuple[int, ...]) -> _Pool:
    """The moments of one meeting, its uses pooled, its channels in the order of the kernel."""
    uses = [place for place, axis in enumerate(meeting.axes) if axis == _jaxpr.POOLED]
    channels = sorted(
        (axis, place) for place, axis in enumerate(meeting.axes) if axis != _jaxpr.POOLED
    )
    order = uses + [place for _, place in channels]
    size = int(np.prod([shape[axis] for axis, _ in channels], dtype=int))

    def arranged(array) -> np.ndarray:
        return np.transpose(np.asarray(array, np.float64), order).reshape(-1, size)

    shift, mean, squares = map(arranged, meeting.measured)
    mean = shift + mean
    overall = mean.mean(axis=0)
    between = meeting.positions * ((mean - overall) ** 2).sum(axis=0)
    return _Pool(meeting.positions * len(mean), overall, squares.sum(axis=0) + between)


# --- batches -------------------------------------------------------------------------------------


def is_batch(candidate: Any) -> bool:
    """Whether an object is one batch: an array, a dictionary, or a tuple of arguments."""
    return hasattr(candidate, "shape") or isinstance(candidate, (Mapping, tuple))


def arguments_of(batch: Any) -> tuple:
    """The positional arguments that a batch gives to the model."""
    if not is_batch(batch):
        raise ValueError(
            "A batch is an array, a dictionary of arrays, or a tuple of the model's arguments, not "
            f"{type(batch).__name__}. Give one of them, or an iterable of them."
        )
    return batch if isinstance(batch, tuple) else (batch,)


def _batches(given: Any) -> Iterator[tuple]:
    if not is_batch(given) and not isinstance(given, Iterable):
        raise ValueError(
            "Features are measured on a batch or on an iterable of batches, not on "
            f"{type(given).__name__}. Give an array, a dictionary of arrays, a tuple of the "
            "model's arguments, or an iterable of them."
        )
    return map(arguments_of, [given] if is_batch(given) else given)


# --- the two measurements --------------------------------------------------------------------


def standard_deviations(
    measure: Callable[[tuple], _jaxpr.Traced], params: Any, given: Any, spec: Collection | None
) -> dict[str, jax.Array]:
    """The standard deviations of the features entering every kernel, over all batches.

    Args:
        measure: Traces one batch of arguments with `moments`.
        params: The tree of parameters.
        given: A batch, or an iterable of batches.
        spec: Whose leaves on manifolds are wanted; None for all kernels.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves_with_paths(params)}
    pools: dict[str, _Pool] = {}
    axes: dict[str, set] = {}
    dtypes: dict[str, Any] = {}
    traced = None
    for arguments in _batches(given):
        traced = checked(measure, arguments)
        for meeting in traced.meetings:
            path = meeting.path
            if meeting.positions == 0:
                raise ValueError(f"A batch is empty: {path!r} meets no features. Leave it out.")
            axes.setdefault(path, set()).add(frozenset(meeting.axes) - {_jaxpr.POOLED})
            dtypes[path] = meeting.measured.shift.dtype
            if len(axes[path]) == 1:
                pool = _pool_of(meeting, shapes[path])
                pools[path] = pools[path].joined(pool) if path in pools else pool
    if traced is None:
        raise ValueError("There are no batches to measure features on; give at least one.")
    paths = _wanted(traced, axes, shapes, spec)
    return {
        path: jnp.asarray(np.sqrt(pools[path].squares / pools[path].count), dtypes[path])
        for path in paths
    }


def map_sizes(
    measure: Callable[[tuple], _jaxpr.Traced], params: Any, batch: Any, spec: Collection | None
) -> dict[str, int]:
    """The number of positions of the feature map that every kernel gives for one example."""
    arguments = arguments_of(batch)
    leading = [leaf.shape[0] for leaf in jax.tree.leaves(arguments) if leaf.shape]
    if not leading:
        raise ValueError("The batch has no axis that counts examples; give it one, if of length 1.")
    traced = checked(measure, arguments)
    sizes: dict[str, int] = {}
    for meeting in traced.meetings:
        size = -(-meeting.outputs // leading[0])
        sizes[meeting.path] = max(size, sizes.get(meeting.path, 0))
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves_with_paths(params)}
    return {path: sizes[path] for path in _wanted(traced, {p: {0} for p in sizes}, shapes, spec)}


def nothing(features: jax.Array) -> None:
    """What `map_sizes` observes of features."""


def checked(measure: Callable[[tuple], _jaxpr.Traced], arguments: tuple) -> _jaxpr.Traced:
    """The trace of one batch, or a sentence where JAX cannot trace the model."""
    try:
        return measure(arguments)
    except jax.errors.JAXTypeError as error:
        raise ValueError(
            "The model cannot be traced by JAX, so its features cannot be measured: calling it "
            "must not depend on the values of arrays (an `if` on one, a conversion to NumPy). Move "
            f"such code out of the call, or use jax.lax.cond. JAX says: {error}"
        ) from error


def _wanted(traced: _jaxpr.Traced, axes: dict[str, set], shapes, spec) -> list[str]:
    """The paths to report, in the order of the tree; every one asked for, or an error."""
    lost = dict(traced.lost)
    lost |= {path: "uses along different axes" for path, uses in axes.items() if len(uses) > 1}
    if spec is not None:
        asked = list(spec.feature_std()) or [path for path, _ in spec.on_manifolds()]
        absent = [path for path in asked if path not in axes and path not in lost]
        if absent:
            raise ValueError(
                f"The kernels {absent} of the spec meet no features of the batch. Build the spec "
                "from the parameters of this model, and call the model so that it uses them."
            )
    else:
        asked = [path for path in shapes if path in axes or path in lost]
    if not asked:
        raise ValueError(
            "No kernel was found: no parameter of the model multiplies features of the batch. The "
            f"parameters are {list(shapes) or 'none'}. Give the model itself and a batch that it "
            "is called with."
        )
    hidden = {path: lost[path] for path in asked if path in lost}
    if hidden:
        reasons = ", ".join(f"{path!r} ({why})" for path, why in hidden.items())
        raise ValueError(
            f"The input channels of some kernels cannot be traced: {reasons}. A kernel must meet "
            "features in a convolution or matrix product after casts, elementwise arithmetic, "
            "transposes or reshapes only. Rewrite the layer so, or leave the kernel Euclidean and "
            "give spec=."
        )
    return asked

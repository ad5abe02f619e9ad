"""Standard deviations of features, and sizes of feature maps, from traces of a network.

The moments of one batch are computed in two passes, around a first estimate of the mean, and
combined over batches in float64 by the rule of Chan, Golub and LeVeque (1983). The result agrees
with two passes over all data to a relative error of 1e-6, even if the mean is a thousand times the
standard deviation.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fgsgd_jax import linalg
from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.features._kernel_uses import KernelUse
from fgsgd_jax.features._provenance import POOLED
from fgsgd_jax.features._tracing import Trace
from fgsgd_jax.spec import Collection, require_collection

# --- moments -------------------------------------------------------------------------------------


class Moments(NamedTuple):
    """First and second moments of a set of feature vectors.

    Attributes:
        shift: A first estimate of the mean, which rounding limits.
        mean: The mean of the features minus `shift`; small, so it keeps the digits `shift` lost.
        squares: The sum of the squared deviations from the mean.
    """

    shift: Any
    mean: Any
    squares: Any


def moments(x: jax.Array) -> Moments:
    """The moments over the first axis: `(positions, *channels)` → `(*channels)` each."""
    x = linalg.in_working_dtype(x)
    shift = jnp.mean(x, axis=0)
    deviation = x - shift  # its relative error is one rounding, however large the mean
    mean = jnp.mean(deviation, axis=0)
    return Moments(shift, mean, jnp.sum((deviation - mean) ** 2, axis=0))


def no_statistic(features: jax.Array) -> None:
    """The statistic for `map_sizes`, which needs no values of the features."""


class _Population(NamedTuple):
    """The moments of all feature vectors that have entered a kernel so far, in float64."""

    count: int
    mean: np.ndarray
    squares: np.ndarray

    def union(self, other: "_Population") -> "_Population":
        """The moments of both sets together, by the rule of Chan, Golub and LeVeque."""
        count = self.count + other.count
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.count / count)
        between = difference**2 * (self.count * other.count / count)
        return _Population(count, mean, self.squares + other.squares + between)

    def standard_deviation(self) -> np.ndarray:
        return np.sqrt(self.squares / self.count)


def _population_of(use: KernelUse, shape: tuple[int, ...]) -> _Population:
    """The moments of one use, steps of scans pooled, channels in the order of the kernel's axes."""
    pooled = [place for place, axis in enumerate(use.axes) if axis == POOLED]
    channels = sorted((axis, place) for place, axis in enumerate(use.axes) if axis != POOLED)
    order = pooled + [place for _, place in channels]
    size = int(np.prod([shape[axis] for axis, _ in channels], dtype=int))

    def by_channel(array) -> np.ndarray:
        return np.transpose(np.asarray(array, np.float64), order).reshape(-1, size)

    shift, mean, squares = map(by_channel, use.statistic)
    mean = shift + mean
    overall = mean.mean(axis=0)
    between = use.positions * ((mean - overall) ** 2).sum(axis=0)
    return _Population(use.positions * len(mean), overall, squares.sum(axis=0) + between)


# --- batches -------------------------------------------------------------------------------------


def _is_batch(candidate: Any) -> bool:
    """Whether an object is one batch: an array, a dictionary, or a tuple of arguments."""
    return hasattr(candidate, "shape") or isinstance(candidate, (Mapping, tuple))


def _arguments_of(batch: Any) -> tuple:
    """The positional arguments of the model's call that a batch stands for."""
    if not _is_batch(batch):
        raise ValueError(
            "A batch is an array, a dictionary of arrays, or a tuple of the model's arguments, not "
            f"{type(batch).__name__}. Give one of them, or an iterable of them."
        )
    return batch if isinstance(batch, tuple) else (batch,)


def _batches(given: Any) -> Iterator[tuple]:
    if not _is_batch(given) and not isinstance(given, Iterable):
        raise ValueError(
            "Features are measured on a batch or on an iterable of batches, not on "
            f"{type(given).__name__}. Give an array, a dictionary of arrays, a tuple of the "
            "model's arguments, or an iterable of them."
        )
    return map(_arguments_of, [given] if _is_batch(given) else given)


# --- the two measurements ------------------------------------------------------------------------


def standard_deviations(
    trace_batch: Callable[[tuple], Trace], params: Any, given: Any, spec: Collection | None
) -> dict[str, jax.Array]:
    """The standard deviations of the features entering every kernel, over all batches.

    Args:
        trace_batch: Traces the model on one batch of arguments, with the statistic `moments`.
        params: The tree of parameters.
        given: A batch, or an iterable of batches.
        spec: Restricts the result to its leaves with a scale, or on manifolds where none has one;
            None for all kernels.

    Returns:
        For each kernel's path an array over its input channels, flattened.

    Raises:
        ValueError: If there is no batch, an empty one, no kernel, or a requested kernel whose input
            channels cannot be traced.
    """
    if spec is not None:
        require_collection(spec)
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves_with_paths(params)}
    populations: dict[str, _Population] = {}
    axes: dict[str, set] = {}
    dtypes: dict[str, Any] = {}
    trace = None
    for arguments in _batches(given):
        trace = _checked(trace_batch, arguments)
        for use in trace.uses:
            path = use.path
            if use.positions == 0:
                raise ValueError(
                    f"A batch is empty: {path!r} is applied to no features. Leave that batch out."
                )
            axes.setdefault(path, set()).add(frozenset(use.axes) - {POOLED})
            dtypes[path] = use.statistic.shift.dtype
            if len(axes[path]) == 1:
                new = _population_of(use, shapes[path])
                populations[path] = populations[path].union(new) if path in populations else new
    if trace is None:
        raise ValueError("There are no batches to measure features on; give at least one.")
    return {
        path: jnp.asarray(
            np.sqrt(populations[path].squares / populations[path].count), dtypes[path]
        )
        for path in _requested(trace, axes, shapes, spec)
    }


def map_sizes(
    trace_batch: Callable[[tuple], Trace], params: Any, batch: Any, spec: Collection | None
) -> dict[str, int]:
    """The number of output positions of every kernel for one example.

    Args:
        trace_batch: Traces the model on one batch of arguments, with any statistic.
        params: The tree of parameters.
        batch: A batch; the first axis of its first array with axes counts examples.
        spec: As for `standard_deviations`.

    Raises:
        ValueError: As `standard_deviations`; also if no array of the batch has an axis.
    """
    if spec is not None:
        require_collection(spec)
    arguments = _arguments_of(batch)
    leading = [leaf.shape[0] for leaf in jax.tree.leaves(arguments) if leaf.shape]
    if not leading:
        raise ValueError(
            "The batch has no axis that counts examples; add one, of length 1 for a single example."
        )
    trace = _checked(trace_batch, arguments)
    sizes: dict[str, int] = {}
    for use in trace.uses:
        size = -(-use.outputs // leading[0])
        sizes[use.path] = max(size, sizes.get(use.path, 0))
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves_with_paths(params)}
    return {path: sizes[path] for path in _requested(trace, {p: {0} for p in sizes}, shapes, spec)}


def _checked(trace_batch: Callable[[tuple], Trace], arguments: tuple) -> Trace:
    """The trace of one batch; a ValueError with the remedy if JAX cannot trace the model."""
    try:
        return trace_batch(arguments)
    except jax.errors.JAXTypeError as error:
        raise ValueError(
            "The model cannot be traced by JAX, so its features cannot be measured: calling it "
            "must not depend on the values of arrays (an `if` on one, a conversion to NumPy). Move "
            f"such code out of the call, or use jax.lax.cond. JAX says: {error}"
        ) from error


def _requested(trace: Trace, axes: dict[str, set], shapes, spec: Collection | None) -> list[str]:
    """The paths to report, in the order of the tree; an error if one of them is untraced.

    Args:
        trace: The trace of one batch.
        axes: The paths of the kernels in use, each with the different sets of input channel axes.
        shapes: The shapes of all parameters by path.
        spec: As for `standard_deviations`.
    """
    untraced = dict(trace.untraced)
    untraced |= {path: "uses along different axes" for path, uses in axes.items() if len(uses) > 1}
    if spec is None:
        requested = [path for path in shapes if path in axes or path in untraced]
    else:
        requested = list(spec.feature_std()) or [path for path, _ in spec.on_manifolds()]
        unused = [path for path in requested if path not in axes and path not in untraced]
        if unused:
            raise ValueError(
                f"The kernels {unused} of the spec are applied to no features of the batch. Build "
                "the spec from the parameters of this model, and call the model so that it uses "
                "them."
            )
    if not requested:
        raise ValueError(
            "No kernel was found: no parameter of the model multiplies features of the batch. The "
            f"parameters are {list(shapes) or 'none'}. Give the model itself and a batch that it "
            "is called with."
        )
    blocked = {path: untraced[path] for path in requested if path in untraced}
    if blocked:
        reasons = ", ".join(f"{path!r} ({operation})" for path, operation in blocked.items())
        raise ValueError(
            f"The input channels of some kernels cannot be traced: {reasons}. A kernel must be "
            "multiplied with features in a convolution or matrix product, after nothing but casts, "
            "elementwise arithmetic, transposes and reshapes. Rewrite the layer that way, or leave "
            "the kernel Euclidean and give spec=."
        )
    return requested

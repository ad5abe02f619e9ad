"""A traced network, and the sum over all its paths."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr

from fgsgd_jax import linalg
from fgsgd_jax._arrays import holds
from fgsgd_jax._functions import takes
from fgsgd_jax._numbers import require_number
from fgsgd_jax._text import shown
from fgsgd_jax._trees import leaves_with_paths, listed
from fgsgd_jax.pathsgd import _extended_range
from fgsgd_jax.pathsgd._extended_range import ScaledFloat
from fgsgd_jax.pathsgd._interpreter import evaluate
from fgsgd_jax.pathsgd._values import Kernel, PathSums, Setting, Unsupported, any_on_input


@dataclasses.dataclass(frozen=True)
class Network:
    """A traced network.

    Attributes:
        equations: Its jaxpr, from the weights and one example to the outputs.
        weights: The float leaves of the parameters, in order, in the dtype of the path sums.
        example_shape: The shape of a batch of one example.
    """

    equations: ClosedJaxpr
    weights: list[jax.Array]
    example_shape: tuple[int, ...]

    def weight_powers(self, p, *, extended: bool = True) -> list[ScaledFloat]:
        """|w|^p of all weights."""
        return [_extended_range.abs_power(w, p, extended=extended) for w in self.weights]

    def kernels(
        self, p, perturbations: list, scale_slots: list
    ) -> tuple[list[ScaledFloat], list[Kernel]]:
        """|w|^p of all weights as plain floats, and the weights as kernels.

        Args:
            p: The power.
            perturbations: Zeros like the weights; differentiate by them.
            scale_slots: Zeros like the weights; differentiate by them.
        """
        powers = [
            one._replace(mantissa=one.mantissa + perturbation)
            for one, perturbation in zip(
                self.weight_powers(p, extended=False), perturbations, strict=True
            )
        ]
        return powers, list(map(Kernel, self.weights, perturbations, scale_slots))

    def total(
        self, powers: list[ScaledFloat], p, kernels: list[Kernel] | None = None
    ) -> ScaledFloat:
        """Σ ∏|w|^p over all paths of the network.

        Args:
            powers: |w|^p of all weights.
            p: The power, for constants of the network.
            kernels: The same weights as kernels, on plain floats.

        Raises:
            ValueError: If an operation of the network does not map path sums to path sums.
        """
        dtype = self.weights[0].dtype
        setting = Setting(p, dtype, extended=powers[0].exponent is not None)
        ones = _extended_range.ones(self.example_shape, dtype, extended=setting.extended)
        inputs = [
            *(
                PathSums(power, on_input=False, kernel=kernel)
                for power, kernel in zip(powers, kernels or [None] * len(powers), strict=True)
            ),
            PathSums(ones, on_input=True),
        ]
        try:
            outputs = evaluate(setting, self.equations.jaxpr, self.equations.consts, inputs)
        except Unsupported as error:
            raise ValueError(str(error)) from None
        if not any_on_input(*outputs):
            raise ValueError(
                "apply_fn(params, x) returned nothing that depends on x, so the network has no "
                "paths; return its outputs."
            )
        path_sums = [output.sums for output in outputs if isinstance(output, PathSums)]
        sums = [_extended_range.summed(x, tuple(range(x.mantissa.ndim))) for x in path_sums]
        return functools.reduce(_extended_range.plus, sums)


def trace(apply_fn: Callable, params: Any, input_shape: Sequence[int]) -> Network:
    """Traces a network. Float leaves of the parameters are weights, all others constants."""
    leaves, structure = jax.tree.flatten(params)
    dtypes = [jnp.result_type(leaf) for leaf in leaves if is_weight(leaf)]
    if not dtypes:
        raise ValueError(
            "The parameters hold no float array, so no path has a weight; give the weights."
        )
    dtype = linalg.working_dtype(max(dtypes, key=lambda dtype: dtype.itemsize))
    weights = [jnp.asarray(leaf, dtype) for leaf in leaves if is_weight(leaf)]
    # Traced in the dtype of the path sums instead of the weights: only the equations are used.
    example = jax.ShapeDtypeStruct((1, *input_shape), dtype)
    shapes = [jax.ShapeDtypeStruct(weight.shape, dtype) for weight in weights]

    def of_weights(weights, x):
        remaining = iter(weights)
        filled = [next(remaining) if is_weight(leaf) else leaf for leaf in leaves]
        return apply_fn(structure.unflatten(filled), x)

    return Network(jax.make_jaxpr(of_weights)(shapes, example), weights, example.shape)


def is_weight(leaf) -> bool:
    """Whether a leaf of the parameters holds weights: whether it is float."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def require_arrays(params: Any) -> None:
    """Raises a TypeError for a leaf that is neither an array nor a number, or too coarse."""
    for path, leaf in leaves_with_paths(params):
        if not (hasattr(leaf, "dtype") or isinstance(leaf, (bool, int, float, complex))):
            where = f", but {path!r} is" if path else ", got"
            raise TypeError(f"The parameters must be a tree of arrays{where} {shown(leaf)}.")
        dtype = getattr(leaf, "dtype", None)
        if dtype is not None and jnp.issubdtype(dtype, jnp.floating) and not holds(dtype):
            raise TypeError(
                f"Sums over paths are of float16, bfloat16, float32 or float64 weights, but "
                f"{path!r} is of dtype {dtype}."
            )


def check_arguments(apply_fn, p, input_shape, params) -> None:
    """Raises an error for arguments from which no path norm can be computed."""
    if not callable(apply_fn):
        raise TypeError(
            "The network is a function of parameters and a batch, apply_fn(params, x), but a "
            f"{type(apply_fn).__name__} was given in its place. Were arguments swapped? Flax "
            "models go to the functions of fgsgd_jax.nnx and fgsgd_jax.linen."
        )
    if not takes(apply_fn, 2):
        raise TypeError(
            "The network is a function of parameters and a batch, apply_fn(params, x), but "
            f"{shown(apply_fn)} takes other arguments."
        )
    require_number("p", p)
    if not isinstance(p, Tracer) and not 1 <= float(p) < np.inf:
        raise ValueError(f"The path norm needs a finite p of at least 1, not {p!r}.")
    require_input_shape(input_shape)
    require_arrays(params)
    is_masked = jax.tree.map(_is_masked, params, is_leaf=_is_masked)
    masked = [path for path, is_one in leaves_with_paths(is_masked) if is_one]
    if masked:
        raise ValueError(
            "Paths run through all layers, so path scaling needs the parameters of the whole "
            f"network, but {listed(masked, 3)} {'is' if len(masked) == 1 else 'are'} masked out, "
            "as inside optax.partition or optax.masked. Put scale_by_path or path_sgd outermost, "
            "and mask or partition what follows it in the chain."
        )


def _is_masked(node) -> bool:
    return isinstance(node, optax.MaskedNode)


def require_input_shape(input_shape: Any) -> None:
    """Raises a ValueError unless this is the shape of an example."""
    if not isinstance(input_shape, (tuple, list)) or not all(
        isinstance(size, (int, np.integer)) and size > 0 for size in input_shape
    ):
        raise ValueError(
            "input_shape is the shape of one example without the batch, such as (28, 28, 1), not "
            f"{input_shape!r}."
        )

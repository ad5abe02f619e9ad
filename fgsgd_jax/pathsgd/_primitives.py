"""How path sums pass through the operations of a network: one rule for each primitive of JAX.

Every rule is called as `rule(setting, params, bind, *inputs)`, with the parameters of the equation
and `bind(*arrays)`, which applies its primitive to arrays. It returns an output or a list of them.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fgsgd_jax.pathsgd import _extended_range
from fgsgd_jax.pathsgd._contractions import contract, convolve
from fgsgd_jax.pathsgd._extended_range import ScaledFloat
from fgsgd_jax.pathsgd._values import (
    PathSums,
    Setting,
    Sign,
    Unsupported,
    any_on_input,
    is_constant,
    is_everywhere,
    path_sums_of,
)

Rule = Callable[..., Any]

# --- operations that move entries ----------------------------------------------------------------


def _move(setting: Setting, params, bind, *inputs):
    """Slices, gathers and the like: path sums move as the values do."""
    floats = [
        not is_constant(value) or jnp.issubdtype(jnp.result_type(value), jnp.inexact)
        for value in inputs
    ]
    # Inputs that are not floats, such as indices, stay as they are in mantissa and exponent.
    sums = [
        path_sums_of(setting, value) if is_float else ScaledFloat(value, value)
        for value, is_float in zip(inputs, floats, strict=True)
    ]
    mantissas = jax.tree.leaves(bind(*(one.mantissa for one in sums)))  # one output or several
    exponents: list = [None] * len(mantissas)
    if setting.extended:
        exponents = jax.tree.leaves(bind(*(one.exponent for one in sums)))
    on_input = any_on_input(*inputs)
    return [
        PathSums(ScaledFloat(*parts), on_input) for parts in zip(mantissas, exponents, strict=True)
    ]


def _rearrange(setting: Setting, params, bind, value, *others):
    """Reshapes, transposes and the like, which keep all entries: a kernel remains a kernel."""
    (moved,) = _move(setting, params, bind, value, *others)
    if others or is_constant(value) or value.kernel is None:
        return [moved]
    return [dataclasses.replace(moved, kernel=jax.tree.map(bind, value.kernel))]


def _pad(setting: Setting, params, bind, value, padding):
    # Max pooling pads with −∞, an edge that no path uses.
    return _move(
        setting, params, bind, value, 0.0 if is_everywhere(padding, -math.inf) else padding
    )


def _keep(setting: Setting, params, bind, *inputs):
    """Changes of sign, barriers and the like, which change no path sum."""
    return list(inputs)


def _cast(setting: Setting, params, bind, value):
    """A cast between float types; the path sums keep their own dtype."""
    if isinstance(value, PathSums) and not jnp.issubdtype(params["new_dtype"], jnp.floating):
        raise Unsupported("rounds to whole numbers")
    return value


# --- elementwise arithmetic ----------------------------------------------------------------------


def _add(setting: Setting, params, bind, a, b):
    sums = _extended_range.plus(path_sums_of(setting, a), path_sums_of(setting, b))
    return PathSums(sums, any_on_input(a, b))


def _multiply(setting: Setting, params, bind, a, b):
    for value, sign in ((a, b), (b, a)):
        if isinstance(sign, Sign):
            if isinstance(value, PathSums) and value.base == sign.base:
                return value  # x·(x > 0), a ReLU
            raise Unsupported("multiplies by the sign of another value")
    if any_on_input(a) and any_on_input(b):
        raise Unsupported("multiplies units with units")
    factors = _broadcast(path_sums_of(setting, a), path_sums_of(setting, b))
    sums = _extended_range.times(*factors)
    for value, factor in ((a, b), (b, a)):
        if is_constant(factor) and np.size(factor) == 1:
            return PathSums(sums, value.on_input, base=value.base)
    return PathSums(sums, any_on_input(a, b))


def _broadcast(a: ScaledFloat, b: ScaledFloat) -> list[ScaledFloat]:
    if a.exponent is None:
        return [a, b]  # floats broadcast by themselves
    parts = (jnp.broadcast_arrays(*terms) for terms in zip(a, b, strict=True))
    return [ScaledFloat(*terms) for terms in zip(*parts, strict=True)]


def _divide(setting: Setting, params, bind, a, b):
    if isinstance(b, PathSums):
        raise Unsupported(f"divides by {'units' if b.on_input else 'parameters'}")
    return _multiply(setting, params, bind, a, 1 / jnp.asarray(b, setting.dtype))


def _power(setting: Setting, params, bind, value):
    exponent = params.get("y", 2)  # the primitive `square` has no `y`
    if value.on_input or exponent < 1:
        raise Unsupported(f"raises {'units' if value.on_input else 'parameters'} to a power")
    return PathSums(_extended_range.power(value.sums, exponent), on_input=False)


# --- sums and pooling ----------------------------------------------------------------------------


def _sum(setting: Setting, params, bind, value):
    """A sum or a maximum over axes; each unit of a maximum has its own path (an upper bound)."""
    return PathSums(_extended_range.summed(value.sums, params["axes"]), value.on_input)


def _window_sum(setting: Setting, params, bind, value, *_):
    """Pooling. A maximum counts as a sum: an upper bound, in which each unit has its own path."""
    window = params["window_dimensions"]

    def summed(mantissa):
        return lax.reduce_window(
            mantissa,
            np.zeros((), setting.dtype),
            lax.add,
            window,
            params["window_strides"],
            params["padding"],
            params.get("base_dilation"),
            params.get("window_dilation"),
        )

    if not setting.extended:
        return PathSums(ScaledFloat(summed(value.sums.mantissa), None), value.on_input)
    over = tuple(axis for axis, size in enumerate(window) if size > 1)
    exponent = _extended_range.largest_exponent(value.sums, over)
    mantissa = summed(_extended_range.aligned(value.sums, exponent))
    other_axes = [axis for axis in range(exponent.ndim) if axis not in over]
    exponent = lax.broadcast_in_dim(jnp.squeeze(exponent, over), mantissa.shape, other_axes)
    return PathSums(ScaledFloat(mantissa, exponent), value.on_input)


# --- activations ---------------------------------------------------------------------------------


def _maximum(setting: Setting, params, bind, a, b):
    """ReLU, or a maximum of units, which counts as their sum (an upper bound)."""
    for value, bound in ((a, b), (b, a)):
        if is_everywhere(bound, 0) or is_everywhere(bound, -math.inf):
            return value
        if not isinstance(bound, PathSums):
            raise Unsupported("bounds units by a number other than 0")
    return _add(setting, params, bind, a, b)


def _compare(setting: Setting, params, bind, a, b):
    for value, bound in ((a, b), (b, a)):
        if isinstance(value, PathSums) and is_everywhere(bound, 0):
            return Sign(value.base)
    raise Unsupported("compares units with something other than 0")


def _select(setting: Setting, params, bind, which, *cases):
    """Leaky ReLU, where(x > 0, x, a·x), takes the larger slope; or a choice by a constant."""
    if isinstance(which, PathSums):
        raise Unsupported("chooses by units")
    if not isinstance(which, Sign):
        return _move(setting, params, lambda *parts: bind(which, *parts), *cases)
    nonzero = [case for case in cases if not is_everywhere(case, 0)]
    multiples = [c for c in nonzero if isinstance(c, PathSums) and c.base == which.base]
    if not nonzero or len(multiples) < len(nonzero):
        raise Unsupported("chooses between values by a sign, other than a leaky ReLU does")
    sums = multiples[0].sums
    for case in multiples[1:]:
        sums = _extended_range.maximum(sums, case.sums)
    return PathSums(sums, on_input=True)


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("broadcast_in_dim", "concatenate", "dynamic_slice", "dynamic_update_slice", "gather",
         "slice", "split", "tile"),
        _move,
    ),
    **dict.fromkeys(("expand_dims", "reshape", "rev", "squeeze", "transpose"), _rearrange),
    **dict.fromkeys(
        ("abs", "copy", "copy_p", "name", "neg", "optimization_barrier", "pvary",
         "reduce_precision", "sharding_constraint", "stop_gradient"),
        _keep,
    ),
    **dict.fromkeys(("add", "add_any", "sub"), _add),
    **dict.fromkeys(("reduce_max", "reduce_min", "reduce_sum"), _sum),
    **dict.fromkeys(("reduce_window_max", "reduce_window_min", "reduce_window_sum"), _window_sum),
    **dict.fromkeys(("max", "min"), _maximum),
    **dict.fromkeys(("ge", "gt", "le", "lt"), _compare),
    **dict.fromkeys(("integer_pow", "square"), _power),
    "convert_element_type": _cast,
    "conv_general_dilated": convolve,
    "div": _divide,
    "dot_general": contract,
    "mul": _multiply,
    "pad": _pad,
    "select_n": _select,
}  # fmt: skip

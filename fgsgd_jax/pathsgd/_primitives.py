"""How masses pass through the operations of a network: one rule for each kind of operation."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fgsgd_jax.pathsgd import _blocked, _extended_range
from fgsgd_jax.pathsgd._extended_range import Mass


class Unsupported(Exception):
    """An operation that no sum over paths describes.

    Attributes:
        reason: What it does, as the end of a sentence that begins with "the network".
        function: The outermost named function it is in, such as gelu.
        place: The layer and the line where it was written.
    """

    def __init__(self, reason: str, function: str = "", place: str = ""):
        self.reason, self.function, self.place = reason, function, place

    def within(self, function: str | None, place: str) -> "Unsupported":
        """The same, seen from the outside of one more function."""
        return Unsupported(self.reason, function or self.function, place or self.place)

    def __str__(self) -> str:
        function = f", in {self.function}" if self.function else ""
        return (
            "Paths are counted in networks of weights, sums, pooling and ReLU-like activations, "
            f"but this one {self.reason}{function}{self.place}. Use relu or leaky_relu, return "
            "logits, and fold normalization into the weights (as fgsgd_jax.nnx.fold_batch_norm "
            "does) or leave it out."
        )


class Kernel(NamedTuple):
    """Weights of a pass on plain floats, yet to be taken to the power p.

    Attributes:
        weight: w.
        tap: Zeros. Their derivative is that by (s·|w|)^p, with s the scale chosen in the pass.
        scale: Zeros. Their derivative is said to be s, so that s is read off it.
    """

    weight: Any
    tap: Any
    scale: Any


@dataclasses.dataclass(frozen=True)
class Flow:
    """A value that paths lead to: units of the network, or weights that stand on its edges.

    Attributes:
        mass: The masses.
        on_input: Whether the value depends on the input; if not, on parameters alone.
        kernel: The weights behind the masses, while nothing has been done to them.
        origin: Equal for values that are multiples of each other, up to their sign.
    """

    mass: Mass
    on_input: bool
    kernel: Kernel | None = None
    origin: object = dataclasses.field(default_factory=object)


@dataclasses.dataclass(frozen=True)
class Sign:
    """The sign of a value, as an activation asks for it."""

    origin: object


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is the same all through one pass.

    Attributes:
        p: The power.
        dtype: The float type of the masses.
        wide: Whether masses have exponents, or are plain floats.
    """

    p: Any
    dtype: Any
    wide: bool


Rule = Callable[..., Any]  # (setting, params of the equation, bind, *inputs) -> output or outputs


def mass_of(setting: Setting, value) -> Mass:
    """The masses of a value; a constant c on an edge counts like a weight, |c|^p."""
    if isinstance(value, Flow):
        return value.mass
    return _extended_range.power_of(jnp.asarray(value, setting.dtype), setting.p, wide=setting.wide)


def _reaches_input(*values) -> bool:
    return any(isinstance(value, Flow) and value.on_input for value in values)


def _is(value, what: float) -> bool:
    """Whether a constant is known to be this number everywhere."""
    if isinstance(value, (Flow, Sign)) or not _extended_range.is_concrete(value):
        return False
    return bool(np.all(np.asarray(value) == what))


# --- moving values around ------------------------------------------------------------------------


def _moved(setting, params, bind, *inputs):
    """Reshapes, slices and the like: masses go where the values go."""
    floats = [
        isinstance(value, Flow) or jnp.issubdtype(jnp.result_type(value), jnp.inexact)
        for value in inputs
    ]
    masses = [
        mass_of(setting, value) if is_float else Mass(value, value)
        for value, is_float in zip(inputs, floats, strict=True)
    ]
    # One output or several, always as a list.
    mantissas = jax.tree.leaves(bind(*(mass.mantissa for mass in masses)))
    exponents: list = [None] * len(mantissas)
    if setting.wide:
        exponents = jax.tree.leaves(bind(*(mass.exponent for mass in masses)))
    on_input = _reaches_input(*inputs)
    return [Flow(Mass(*parts), on_input) for parts in zip(mantissas, exponents, strict=True)]


def _rearranged(setting, params, bind, value, *others):
    """What keeps every number, so that a kernel stays one."""
    (moved,) = _moved(setting, params, bind, value, *others)
    if others or not isinstance(value, Flow) or value.kernel is None:
        return [moved]
    kernel = jax.tree.map(bind, value.kernel)
    return [dataclasses.replace(moved, kernel=kernel)]


def _padded(setting, params, bind, value, filling):
    # Pooling takes what it is padded with, −∞, as nothing at all.
    return _moved(setting, params, bind, value, 0.0 if _is(filling, -math.inf) else filling)


def _same(setting, params, bind, *inputs):
    """Casts, signs, barriers: nothing that a path feels, and masses keep their own dtype."""
    return list(inputs)


def _cast(setting, params, bind, value):
    if isinstance(value, Flow) and not jnp.issubdtype(params["new_dtype"], jnp.floating):
        raise Unsupported("rounds to whole numbers")
    return value


# --- sums and products ---------------------------------------------------------------------------


def _added(setting, params, bind, a, b):
    masses = _extended_range.plus(mass_of(setting, a), mass_of(setting, b))
    return Flow(masses, _reaches_input(a, b))


def _multiplied(setting, params, bind, a, b):
    for value, sign in ((a, b), (b, a)):
        if isinstance(sign, Sign):
            if isinstance(value, Flow) and value.origin == sign.origin:
                return value  # x·(x > 0), a ReLU
            raise Unsupported("multiplies by the sign of another value")
    if _reaches_input(a) and _reaches_input(b):
        raise Unsupported("multiplies units with units")
    masses = _extended_range.times(*_broadcast(mass_of(setting, a), mass_of(setting, b)))
    flows = [value for value in (a, b) if isinstance(value, Flow)]
    if len(flows) == 1:  # a multiple, if the constant is one number
        constant = b if flows[0] is a else a
        if np.ndim(constant) == 0 or np.size(constant) == 1:
            return Flow(masses, flows[0].on_input, origin=flows[0].origin)
    return Flow(masses, _reaches_input(a, b))


def _broadcast(a: Mass, b: Mass) -> list[Mass]:
    if a.exponent is None:
        return [a, b]  # floats broadcast by themselves
    parts = (jnp.broadcast_arrays(*terms) for terms in zip(a, b, strict=True))
    return [Mass(*terms) for terms in zip(*parts, strict=True)]


def _divided(setting, params, bind, a, b):
    if isinstance(b, Flow):
        raise Unsupported(f"divides by {'units' if b.on_input else 'parameters'}")
    return _multiplied(setting, params, bind, a, 1 / jnp.asarray(b, setting.dtype))


def _powered(setting, params, bind, value):
    exponent = params.get("y", 2)  # `square` has none
    if value.on_input or exponent < 1:
        raise Unsupported(f"raises {'units' if value.on_input else 'parameters'} to a power")
    return Flow(_extended_range.raised(value.mass, exponent), False)


def _summed(setting, params, bind, value):
    return Flow(_extended_range.summed(value.mass, params["axes"]), value.on_input)


def _window_summed(setting, params, bind, value, *_):
    """Pooling. A window of maxima is summed: an upper bound, as each of its units has its path."""
    sizes = params["window_dimensions"]

    def summed(mantissa):
        return lax.reduce_window(
            mantissa,
            np.zeros((), setting.dtype),
            lax.add,
            sizes,
            params["window_strides"],
            params["padding"],
            params.get("base_dilation"),
            params.get("window_dilation"),
        )

    if not setting.wide:
        return Flow(Mass(summed(value.mass.mantissa), None), value.on_input)
    over = tuple(axis for axis, size in enumerate(sizes) if size > 1)
    top = _extended_range.largest_exponent(value.mass, over)
    mantissa = summed(_extended_range.aligned(value.mass, top))
    kept = [axis for axis in range(top.ndim) if axis not in over]
    top = lax.broadcast_in_dim(jnp.squeeze(top, over), mantissa.shape, kept)
    return Flow(Mass(mantissa, top), value.on_input)


# --- weights on units ----------------------------------------------------------------------------


def _contracted(setting, params, bind, a, b):
    """Σ over common axes of a·b, of units with weights, or of weights with weights."""
    if _reaches_input(a) and _reaches_input(b):
        raise Unsupported("multiplies units with units")
    numbers = params["dimension_numbers"]
    masses = [mass_of(setting, a), mass_of(setting, b)]
    units, weights = (1, 0) if _reaches_input(b) else (0, 1)
    over, each = numbers
    free = [
        tuple(axis for axis in range(mass.mantissa.ndim) if axis not in (*over[k], *each[k]))
        for k, mass in enumerate(masses)
    ]
    mantissas = [mass.mantissa for mass in masses]
    top: Any = None
    kernel = _kernel_of((a, b)[weights])
    if setting.wide or kernel:
        mantissas[units], scale = _with_common_scales(setting, masses[units], free[units])
        scale = jnp.squeeze(scale, free[units])
        if kernel and _is_large_matrix(setting, kernel, over[weights], mantissas[units].size):
            vectors = mantissas[units].ravel(), scale.ravel()
            sums: Any = _blocked.summed(*over[weights], setting.p, *vectors, *kernel)
            shape = [masses[0].mantissa.shape[axis] for axis in (*each[0], *free[0])]
            shape += [masses[1].mantissa.shape[axis] for axis in free[1]]
            return Flow(Mass(sums.reshape(shape), None), _reaches_input(a, b))
        scale = jnp.transpose(scale, _order((*each[units], *over[units])))
        places = (*each[weights], *over[weights])
        scale = lax.broadcast_in_dim(scale, mantissas[weights].shape, places)
        mantissas[weights], top = _folded(setting, masses[weights], kernel, scale, over[weights])
    product = lax.dot_general(mantissas[0], mantissas[1], numbers, precision=lax.Precision.HIGHEST)
    if setting.wide:
        # Of the product, the axes are those in common, then the free ones of a, then those of b.
        start = len(each[0]) + (len(free[0]) if weights == 1 else 0)
        places = (*range(len(each[0])), *range(start, start + len(free[weights])))
        top = jnp.squeeze(top, over[weights])
        top = jnp.transpose(top, _order((*each[weights], *free[weights])))
        top = lax.broadcast_in_dim(top, product.shape, places)
    return Flow(Mass(product, top), _reaches_input(a, b))


def _is_large_matrix(setting: Setting, kernel: Kernel, over: tuple[int, ...], units: int) -> bool:
    """Whether weights are a matrix, on a vector of units, that is better summed in blocks."""
    shape = kernel.weight.shape
    vector = len(shape) == 2 and [shape[axis] for axis in over] == [units]
    return vector and not setting.wide and _blocked.pays(kernel.weight.size, setting.p)


def _order(axes: tuple[int, ...]) -> tuple[int, ...]:
    """The transposition that brings the axes left by a reduction into the order named."""
    return tuple(sorted(axes).index(axis) for axis in axes)


def _convolved(setting, params, bind, units, kernel):
    if _reaches_input(kernel):
        raise Unsupported("convolves with units")
    if params["batch_group_count"] != 1:
        raise Unsupported("convolves groups of a batch")
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    inputs, weights = mass_of(setting, units), mass_of(setting, kernel)
    mantissa, folded = inputs.mantissa, weights.mantissa
    top: Any = None
    raw = _kernel_of(kernel)
    if setting.wide or raw:
        others = tuple(a for a in range(mantissa.ndim) if a != numbers.lhs_spec[1])
        mantissa, scale = _with_common_scales(setting, inputs, others)
        # Output channel o of a group sees the input channels of its group.
        outputs = folded.shape[numbers.rhs_spec[0]]
        scale = scale.reshape(groups, 1, -1)
        scale = jnp.repeat(scale, outputs // groups, axis=1).reshape(outputs, -1)
        scale = lax.broadcast_in_dim(scale, folded.shape, numbers.rhs_spec[:2])
        over = tuple(axis for axis in range(folded.ndim) if axis != numbers.rhs_spec[0])
        folded, top = _folded(setting, weights, raw, scale, over)
    product = lax.conv_general_dilated(
        mantissa,
        folded,
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        numbers,
        groups,
        precision=lax.Precision.HIGHEST,
    )
    if setting.wide:
        top = lax.broadcast_in_dim(top.reshape(-1), product.shape, (numbers.out_spec[1],))
    return Flow(Mass(product, top), _reaches_input(units, kernel))


def _kernel_of(value) -> Kernel | None:
    return value.kernel if isinstance(value, Flow) else None


def _with_common_scales(setting: Setting, units: Mass, axes: tuple[int, ...]):
    """The units with one scale along some axes, which keep size 1 in the scales.

    A scale is an exponent; in a pass on plain floats, what |w| is multiplied by before the power p.
    """
    if not setting.wide:
        return _extended_range.without_scales(units.mantissa, setting.p, axes)
    units = _extended_range.normalized(units)
    top = _extended_range.largest_exponent(units, axes)
    return _extended_range.aligned(units, top), top


def _folded(setting: Setting, weights: Mass, kernel: Kernel | None, scale, over: tuple[int, ...]):
    """The weights with the scales of the units they stand on; the exponent of each output."""
    if kernel is None or setting.wide:
        reaching = Mass(weights.mantissa, weights.exponent + scale)
        top = _extended_range.largest_exponent(reaching, over)
        return _extended_range.aligned(reaching, top), top
    # Scaled before the power: |w|^p alone is no float where units far apart in scale meet.
    masses = _extended_range.power_of(scale * kernel.weight, setting.p, wide=False).mantissa
    return _tapped(masses, kernel.tap, kernel.scale, scale), None


@jax.custom_vjp
def _tapped(masses, tap, scale_tap, scale):
    """The masses, with the derivatives by the taps that `Kernel` tells of."""
    return masses


def _tapped_forwards(masses, tap, scale_tap, scale):
    return masses, scale


def _tapped_backwards(scale, derivative):
    return None, derivative, scale, None


_tapped.defvjp(_tapped_forwards, _tapped_backwards)


# --- activations ---------------------------------------------------------------------------------


def _maximum(setting, params, bind, a, b):
    """ReLU, or a maximum of units: each of them has its path, so it is a sum (an upper bound)."""
    for value, bound in ((a, b), (b, a)):
        if _is(bound, 0) or _is(bound, -math.inf):
            return value
        if not isinstance(bound, Flow):
            raise Unsupported("bounds units by a number other than 0")
    return _added(setting, params, bind, a, b)


def _compared(setting, params, bind, a, b):
    for value, bound in ((a, b), (b, a)):
        if isinstance(value, Flow) and _is(bound, 0):
            return Sign(value.origin)
    raise Unsupported("compares units with something other than 0")


def _selected(setting, params, bind, which, *cases):
    """Leaky ReLU, where(x > 0, x, a·x): the larger slope; or a choice that is always the same."""
    if not isinstance(which, Sign):
        if isinstance(which, Flow):
            raise Unsupported("chooses by units")
        return _moved(setting, params, lambda *parts: bind(which, *parts), *cases)
    live = [case for case in cases if not _is(case, 0)]
    if not live or any(not isinstance(c, Flow) or c.origin != which.origin for c in live):
        raise Unsupported("chooses between values by a sign, other than a leaky ReLU does")
    masses = live[0].mass
    for case in live[1:]:
        masses = _extended_range.largest(masses, case.mass)
    return Flow(masses, True)


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("broadcast_in_dim", "concatenate", "dynamic_slice", "dynamic_update_slice", "gather",
         "slice", "split", "tile"),
        _moved,
    ),
    **dict.fromkeys(("expand_dims", "reshape", "rev", "squeeze", "transpose"), _rearranged),
    **dict.fromkeys(
        ("abs", "copy", "copy_p", "name", "neg", "optimization_barrier", "pvary",
         "reduce_precision", "sharding_constraint", "stop_gradient"),
        _same,
    ),
    **dict.fromkeys(("add", "add_any", "sub"), _added),
    **dict.fromkeys(("reduce_max", "reduce_min", "reduce_sum"), _summed),
    **dict.fromkeys(
        ("reduce_window_max", "reduce_window_min", "reduce_window_sum"), _window_summed
    ),
    **dict.fromkeys(("max", "min"), _maximum),
    **dict.fromkeys(("ge", "gt", "le", "lt"), _compared),
    **dict.fromkeys(("integer_pow", "square"), _powered),
    "convert_element_type": _cast,
    "conv_general_dilated": _convolved,
    "div": _divided,
    "dot_general": _contracted,
    "mul": _multiplied,
    "pad": _padded,
    "select_n": _selected,
}  # fmt: skip

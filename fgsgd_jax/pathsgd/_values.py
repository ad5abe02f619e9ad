"""What stands for the values of a network while its path sums are computed.

A value that depends on the input or on a weight becomes `PathSums`, a comparison with 0 becomes a
`Sign`, and constants stay numbers.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fgsgd_jax.pathsgd import _extended_range
from fgsgd_jax.pathsgd._extended_range import ScaledFloat


class Unsupported(Exception):
    """An operation that does not map path sums to path sums.

    Attributes:
        reason: What the network does, as the end of a sentence that begins with "the network".
        function: The outermost named function that does it, such as gelu.
        place: The layer and the line where it was written.
    """

    def __init__(self, reason: str, function: str = "", place: str = ""):
        self.reason, self.function, self.place = reason, function, place

    def within(self, function: str | None, place: str) -> "Unsupported":
        """The same error as seen from the function that calls this one."""
        return Unsupported(self.reason, function or self.function, place or self.place)

    def __str__(self) -> str:
        function = f", in {self.function}" if self.function else ""
        return (
            "A path norm is defined for networks of weights, sums, pooling and ReLU-like "
            f"activations, but this network {self.reason}{function}{self.place}. Use relu or "
            "leaky_relu, return logits, and fold normalization into the weights (as "
            "fgsgd_jax.nnx.fold_batch_norm does) or leave it out."
        )


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is the same for all values of one evaluation.

    Attributes:
        p: The power.
        dtype: The float type of the path sums.
        extended: Whether path sums have exponents of their own, or are plain floats.
    """

    p: Any
    dtype: Any
    extended: bool


class Kernel(NamedTuple):
    """Weights on plain floats, before they are taken to the power p.

    A contraction multiplies them by the scale s of the units that they are applied to and only then
    takes the power. It defines the derivatives by the other two fields so that both the derivative
    by (s·|w|)^p and s can be read from a gradient.

    Attributes:
        weight: w.
        perturbation: Zeros like w. The derivative by them is the derivative by (s·|w|)^p.
        scale_slot: Zeros like w. The derivative by them is defined to be s.
    """

    weight: Any
    perturbation: Any
    scale_slot: Any


@dataclasses.dataclass(frozen=True)
class PathSums:
    """The path sums in place of units of the network, or |w|^p in place of weights w.

    Attributes:
        sums: The path sums.
        on_input: Whether the value depends on the input; if not, it depends on parameters only.
        kernel: The weights themselves, as long as no operation has changed their entries.
        base: The same object in values that are multiples of each other, up to the sign.
    """

    sums: ScaledFloat
    on_input: bool
    kernel: Kernel | None = None
    base: object = dataclasses.field(default_factory=object)


@dataclasses.dataclass(frozen=True)
class Sign:
    """The comparison of a value with 0, as leaky ReLU makes it.

    Attributes:
        base: The `base` of the value.
    """

    base: object


def is_constant(value) -> bool:
    """Whether a value depends neither on the input nor on the weights."""
    return not isinstance(value, (PathSums, Sign))


def path_sums_of(setting: Setting, value) -> ScaledFloat:
    """The path sums of a value. A constant c is an edge of the network and counts as |c|^p."""
    if isinstance(value, PathSums):
        return value.sums
    constant = jnp.asarray(value, setting.dtype)
    return _extended_range.abs_power(constant, setting.p, extended=setting.extended)


def any_on_input(*values) -> bool:
    """Whether one of the values depends on the input."""
    return any(isinstance(value, PathSums) and value.on_input for value in values)


def kernel_of(value) -> Kernel | None:
    """The weights that a value is, if it is unchanged weights on plain floats."""
    return value.kernel if isinstance(value, PathSums) else None


def is_concrete(array) -> bool:
    """Whether the numbers of an array are known while a function is traced."""
    return not isinstance(array, Tracer)


def is_everywhere(value, number: float) -> bool:
    """Whether a value is a constant whose entries are all known to be this number."""
    if not is_constant(value) or not is_concrete(value):
        return False
    return bool(np.all(np.asarray(value) == number))

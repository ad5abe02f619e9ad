"""Which kernels of a network are applied to which features, read from its jaxpr.

JAX records any network as a jaxpr, a list of equations. This module evaluates that list a second
time, and keeps for every value what it was computed from: the batch, or which axes of which
parameter. A kernel is applied to features where a convolution or a matrix product multiplies the
two, and the equation says which axis of the kernel runs over input channels. So all layers of all
frameworks are seen, also layers written by hand, and no framework is patched.

    traced through      casts, elementwise arithmetic (weight normalization), transposes, reshapes
    evaluated inside    jit, remat, vmap, custom derivatives, scan
    not looked into     while, cond and hand-written kernels: their parameters are reported as
                        untraced
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import eval_jaxpr
from jax.extend.core import Jaxpr, Literal

from fgsgd_jax._jaxpr import called_jaxpr, evaluate
from fgsgd_jax.features._kernel_uses import (
    KernelUse,
    entering_convolution,
    entering_product,
    kernel_use,
)
from fgsgd_jax.features._provenance import Value, parameter, provenance_after

OPAQUE = {"while", "cond", "shard_map", "pallas_call", "custom_partitioning", "ffi_call"}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trace:
    """All uses of kernels in one evaluation of a network.

    Attributes:
        uses: In the order of the evaluation.
        untraced: Pairs (path, operation) of the kernels that are applied to features after an
            operation that hides which of their axes are input channels.
    """

    uses: list[KernelUse]
    untraced: tuple[tuple[str, str], ...] = dataclasses.field(metadata={"static": True})


def trace(
    apply: Callable, params: Sequence[tuple[str, Any]], rest: Any, batch: Any, statistic: Callable
) -> Trace:
    """Evaluates a network, with a statistic of the features that enter each of its kernels.

    Args:
        apply: The network, called as `apply(leaves, rest, batch)`.
        params: The pairs (path, leaf) of the parameters.
        rest: All other variables, a tree.
        batch: The batch, a tree; what depends on it is a feature.
        statistic: Called as `statistic(features)` with features `(positions, *channels)`; returns a
            tree of arrays of shape `channels`.
    """
    leaves = [jnp.asarray(leaf) for _, leaf in params]
    closed = jax.make_jaxpr(apply)(leaves, rest, batch)
    inputs = [parameter(path, leaf) for (path, _), leaf in zip(params, leaves, strict=True)]
    inputs += [Value(leaf) for leaf in jax.tree.leaves(rest)]
    inputs += [Value(jnp.asarray(leaf), from_batch=True) for leaf in jax.tree.leaves(batch)]
    untraced: dict[str, str] = {}
    tracer = _Tracer(statistic, untraced)
    tracer.run(closed.jaxpr, closed.consts, inputs)
    matrices = {path for (path, _), leaf in zip(params, leaves, strict=True) if leaf.ndim > 1}
    wanted = matrices - {use.path for use in tracer.uses}
    return Trace(tracer.uses, tuple(sorted((p, why) for p, why in untraced.items() if p in wanted)))


class _Tracer:
    """Evaluates a jaxpr and collects the uses of kernels.

    Attributes:
        statistic: As for `trace`.
        untraced: Kernels by path with the operation that hides their axes; added to.
        uses: The uses found so far.
    """

    def __init__(self, statistic: Callable, untraced: dict[str, str]):
        self.statistic = statistic
        self.untraced = untraced
        self.uses: list[KernelUse] = []

    def run(self, jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
        """Evaluates all equations of a jaxpr."""

        def evaluate_equation(eqn, inputs):
            return self._evaluate(jaxpr, eqn, list(map(_as_value, inputs)))

        return list(map(_as_value, evaluate(jaxpr, consts, inputs, evaluate_equation)))

    def _evaluate(self, jaxpr: Jaxpr, eqn, inputs: list[Value]) -> list[Value]:
        inner = called_jaxpr(eqn)
        if inner is not None:
            return self.run(*inner, inputs)
        if not any(value.from_batch for value in inputs):
            arrays = _arrays_of(jaxpr, eqn, inputs)
            return [_without_features(eqn, inputs, array) for array in arrays]
        if eqn.primitive.name == "scan":
            return self._scan(eqn, inputs)
        self._collect(eqn, inputs)
        unpadded = _before_padding(eqn, inputs)
        arrays = _arrays_of(jaxpr, eqn, inputs)
        return [Value(array, from_batch=True, unpadded=unpadded) for array in arrays]

    def _scan(self, eqn, inputs: list[Value]) -> list[Value]:
        """Runs a scan again, with the statistics of every step as additional results."""
        params, body = eqn.params, eqn.params["jaxpr"]
        first_carry = params["num_consts"]
        carry_size = params["num_carry"]
        first_x = first_carry + carry_size
        consts = [value.pooled() for value in inputs[:first_carry]]
        carry, xs = inputs[first_carry:first_x], inputs[first_x:]
        # A carry that every step returns unchanged is a constant, and may be a kernel.
        unchanged = [
            variable is result
            for variable, result in zip(
                body.jaxpr.invars[first_carry:first_x], body.jaxpr.outvars[:carry_size], strict=True
            )
        ]

        def step(carry_arrays, x_arrays):
            tracer = _Tracer(self.statistic, self.untraced)
            carried = [
                value.pooled()._replace(array=array) if constant else Value(array, from_batch=True)
                for constant, value, array in zip(unchanged, carry, carry_arrays, strict=True)
            ]
            slices = [value.sliced(array) for value, array in zip(xs, x_arrays, strict=True)]
            values = tracer.run(body.jaxpr, body.consts, [*consts, *carried, *slices])
            arrays = [value.array for value in values]
            return arrays[:carry_size], (arrays[carry_size:], tracer.uses)

        last, (ys, uses) = lax.scan(
            step,
            [value.array for value in carry],
            [value.array for value in xs],
            length=params["length"],
            reverse=params["reverse"],
        )
        self.uses += uses
        last_carry = [
            value if constant else Value(array, from_batch=True)
            for constant, value, array in zip(unchanged, carry, last, strict=True)
        ]
        return last_carry + [Value(array, from_batch=True) for array in ys]

    def _collect(self, eqn, inputs: list[Value]) -> None:
        """Adds the use of a kernel, if the equation applies one to features."""
        name = eqn.primitive.name
        if name in OPAQUE:
            for value in inputs:
                self._block(value, name)
        if name not in ("dot_general", "conv_general_dilated"):
            return
        left, right = inputs
        if left.from_batch and right.from_batch:
            return
        features, kernel = (left, right) if left.from_batch else (right, left)
        is_product = name == "dot_general"
        if kernel.provenance is None or (not is_product and features is right):
            self._block(kernel, kernel.blocked_by or name)
            return
        if is_product:
            vectors = entering_product(eqn, features.array, features_first=features is left)
        elif eqn.params["batch_group_count"] == 1:
            vectors = entering_convolution(eqn, features)
        else:
            self.untraced[kernel.provenance.path] = "a convolution in batch groups"
            return
        self.uses.append(kernel_use(kernel.provenance, vectors, self.statistic))

    def _block(self, value: Value, operation: str) -> None:
        self.untraced.update((path, operation) for path in value.params)


def _as_value(given: Any) -> Value:
    """A value, also for the constants and literals of a jaxpr."""
    return given if isinstance(given, Value) else Value(given)


def _arrays_of(jaxpr: Jaxpr, eqn, inputs: list[Value]) -> list[Any]:
    """The arrays that one equation of a jaxpr computes."""
    arrays = {
        variable: value.array
        for variable, value in zip(eqn.invars, inputs, strict=True)
        if not isinstance(variable, Literal)
    }
    single = jaxpr.replace(constvars=[], invars=list(arrays), outvars=eqn.outvars, eqns=[eqn])
    return eval_jaxpr(single, (), *arrays.values())


def _without_features(eqn, inputs: list[Value], array: Any) -> Value:
    """The output of an equation none of whose inputs is a feature."""
    params = frozenset[str]().union(*(value.params for value in inputs))
    if not params:
        return Value(array)
    provenance = provenance_after(eqn, inputs, array.shape)
    if provenance is not None:
        return Value(array, params=params, provenance=provenance)
    earlier = next((value.blocked_by for value in inputs if value.blocked_by), None)
    return Value(array, params=params, blocked_by=earlier or eqn.primitive.name)


def _before_padding(eqn, inputs: list[Value]) -> Any:
    """The features that an equation pads with a constant; None for all other equations."""
    if eqn.primitive.name != "pad" or inputs[1].from_batch:
        return None
    if any(low < 0 or high < 0 for low, high, _ in eqn.params["padding_config"]):
        return None
    return inputs[0].array if inputs[0].unpadded is None else inputs[0].unpadded

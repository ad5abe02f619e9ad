"""Where kernels meet features: a network is read equation by equation, without editing it.

JAX writes any network down as a jaxpr, a list of equations. Here that list is evaluated once more,
and every value carries where it comes from: from the batch, or from which axes of which parameter.
A kernel meets features where a convolution or a matrix product multiplies the two; the equation
itself says which axis of the kernel runs over input channels. So every layer of every framework is
seen, also those written by hand, inside `jit`, `remat`, `vmap` and `scan`, and nothing is patched.

    reads through       casts, elementwise arithmetic (weight normalization), transposes, reshapes
    follows into        jit, remat, custom derivatives, scan
    does not look into  while, cond and hand-written kernels: what meets there is reported as lost
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import eval_jaxpr
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from fgsgd_jax.features._provenance import POOLED as POOLED
from fgsgd_jax.features._provenance import Origin, Value, origin_after, whole

INLINED = {
    "jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2",
    "custom_jvp_call", "custom_vjp_call",
}  # fmt: skip
OPAQUE = {"while", "cond", "shard_map", "pallas_call", "custom_partitioning", "ffi_call"}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Meeting:
    """What was measured where one kernel met features.

    Attributes:
        path: The path of the kernel.
        axes: The axes of the kernel that the measurements run over, or `POOLED`, in order.
        positions: How many feature vectors were seen, in each pooled use.
        outputs: How many output vectors came of it (batch and map positions), in each use.
        measured: A tree of arrays whose axes are `axes`.
    """

    path: str = dataclasses.field(metadata={"static": True})
    axes: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    positions: int = dataclasses.field(metadata={"static": True})
    outputs: int = dataclasses.field(metadata={"static": True})
    measured: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Traced:
    """All meetings of one evaluation, and the kernels that met features unseen.

    Attributes:
        meetings: In the order of the evaluation.
        lost: Pairs (path, the operation that hid it).
    """

    meetings: list[Meeting]
    lost: tuple[tuple[str, str], ...] = dataclasses.field(metadata={"static": True})


def trace(
    apply: Callable, params: Sequence[tuple[str, Any]], rest: Any, batch: Any, observe: Callable
) -> Traced:
    """Evaluates a network and observes the features that enter its kernels.

    Args:
        apply: The network, called as `apply(leaves, rest, batch)`.
        params: The pairs (path, leaf) of the parameters.
        rest: All other variables, a tree.
        batch: The batch, a tree; what depends on it is a feature.
        observe: Called as `observe(features)` with features `(positions, *channels)`; returns a
            tree of arrays of the shape `channels`.
    """
    leaves = [jnp.asarray(leaf) for _, leaf in params]
    closed = jax.make_jaxpr(apply)(leaves, rest, batch)
    values = [
        Value(leaf, params=frozenset([path]), origin=whole(path, leaf.shape))
        for (path, _), leaf in zip(params, leaves, strict=True)
    ]
    values += [Value(leaf) for leaf in jax.tree.leaves(rest)]
    values += [Value(jnp.asarray(leaf), from_batch=True) for leaf in jax.tree.leaves(batch)]
    reader = _Reader(observe)
    reader.run(closed.jaxpr, closed.consts, values)
    seen = {meeting.path for meeting in reader.meetings}
    matrices = {path for (path, _), leaf in zip(params, leaves, strict=True) if leaf.ndim > 1}
    lost = {path: why for path, why in reader.lost.items() if path in matrices - seen}
    return Traced(reader.meetings, tuple(sorted(lost.items())))


# --- the reader ------------------------------------------------------------------------------


class _Reader:
    """Evaluates a jaxpr and writes down where kernels met features."""

    def __init__(self, observe: Callable):
        self.observe = observe
        self.meetings: list[Meeting] = []
        self.lost: dict[str, str] = {}

    def run(self, jaxpr: Jaxpr, consts: Sequence[Any], values: Sequence[Value]) -> list[Value]:
        """Evaluates all equations of a jaxpr."""
        env = dict(zip(jaxpr.constvars, map(Value, consts), strict=True))
        env.update(zip(jaxpr.invars, values, strict=True))

        def read(variable) -> Value:
            return Value(variable.val) if isinstance(variable, Literal) else env[variable]

        for eqn in jaxpr.eqns:
            outputs = self._evaluate(jaxpr, eqn, [read(variable) for variable in eqn.invars])
            env.update(zip(eqn.outvars, outputs, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def _evaluate(self, jaxpr: Jaxpr, eqn, inputs: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        from_batch = any(value.from_batch for value in inputs)
        if name in INLINED:
            body = eqn.params["jaxpr"] if "jaxpr" in eqn.params else eqn.params["call_jaxpr"]
            if isinstance(body, ClosedJaxpr):
                return self.run(body.jaxpr, body.consts, inputs)
            return self.run(body, (), inputs)
        if name == "scan" and from_batch:
            return self._scan(eqn, inputs)
        if from_batch:
            self._look(eqn, inputs)
        arrays = _result(jaxpr, eqn, inputs)
        if from_batch:
            unpadded = _without_padding(eqn, inputs)
            return [Value(array, from_batch=True, unpadded=unpadded) for array in arrays]
        return [self._without_features(eqn, inputs, array) for array in arrays]

    def _without_features(self, eqn, inputs: list[Value], array) -> Value:
        params = frozenset[str]().union(*(value.params for value in inputs))
        if not params:
            return Value(array)
        origin = origin_after(eqn, inputs, array.shape)
        hidden = next((v.hidden_by for v in inputs if v.hidden_by), eqn.primitive.name)
        return Value(array, params=params, origin=origin, hidden_by="" if origin else hidden)

    def _scan(self, eqn, inputs: list[Value]) -> list[Value]:
        """Scans again, with the measurements of every step among the results."""
        params = eqn.params
        consts_end = params["num_consts"]
        carry_end = consts_end + params["num_carry"]
        carried = carry_end - consts_end
        body = params["jaxpr"]
        # A carry that every step hands on as it is, is a constant, and may be a kernel.
        fixed = [
            variable is result
            for variable, result in zip(
                body.jaxpr.invars[consts_end:carry_end], body.jaxpr.outvars[:carried], strict=True
            )
        ]
        consts = [_pooled(value) for value in inputs[:consts_end]]
        carry, xs = inputs[consts_end:carry_end], inputs[carry_end:]

        def step(carry_arrays, x_arrays):
            outer, self.meetings = self.meetings, []
            values = [
                *consts,
                *(
                    _pooled(value)._replace(array=array) if keep else Value(array, from_batch=True)
                    for keep, value, array in zip(fixed, carry, carry_arrays, strict=True)
                ),
                *(_slice(value, array) for value, array in zip(xs, x_arrays, strict=True)),
            ]
            results = [value.array for value in self.run(body.jaxpr, body.consts, values)]
            met, self.meetings = self.meetings, outer
            return results[:carried], (results[carried:], met)

        last, (ys, met) = lax.scan(
            step,
            [value.array for value in carry],
            [value.array for value in xs],
            length=params["length"],
            reverse=params["reverse"],
        )
        self.meetings += met
        kept = [
            value if keep else Value(array, from_batch=True)
            for keep, value, array in zip(fixed, carry, last, strict=True)
        ]
        return kept + [Value(array, from_batch=True) for array in ys]

    # --- meetings --------------------------------------------------------------------------------

    def _look(self, eqn, inputs: list[Value]) -> None:
        """Writes down a meeting, if the equation is one."""
        name = eqn.primitive.name
        if name in OPAQUE:
            for value in inputs:
                self._lose(value, name)
        if name not in ("dot_general", "conv_general_dilated"):
            return
        left, right = inputs
        if left.from_batch and right.from_batch:
            return
        features, kernel = (left, right) if left.from_batch else (right, left)
        if kernel.origin is None or (name != "dot_general" and features is right):
            self._lose(kernel, kernel.hidden_by or name)
        elif name == "dot_general":
            self._meet_in_product(eqn, features, kernel.origin, features_first=features is left)
        else:
            self._meet_in_convolution(eqn, features, kernel.origin)

    def _lose(self, kernel: Value, why: str) -> None:
        self.lost.update((path, why) for path in kernel.params)

    def _meet_in_product(
        self, eqn, features: Value, origin: Origin, *, features_first: bool
    ) -> None:
        contracted, batched = eqn.params["dimension_numbers"]
        ours, theirs = (0, 1) if features_first else (1, 0)
        pairs = sorted(
            pair
            for axes in (contracted, batched)
            for pair in zip(axes[theirs], axes[ours], strict=True)
        )
        channel_axes = [axis for _, axis in pairs]
        x = features.array
        free = [axis for axis in range(x.ndim) if axis not in channel_axes]
        positions = math.prod(x.shape[axis] for axis in free)
        x = jnp.transpose(x, free + channel_axes)
        x = x.reshape(positions, *(x.shape[len(free) :]))
        self._write(origin, [axis for axis, _ in pairs], x, positions)

    def _meet_in_convolution(self, eqn, features: Value, origin: Origin) -> None:
        params = eqn.params
        numbers, groups = params["dimension_numbers"], params["feature_group_count"]
        x, bare = features.array, features.unpadded
        batch_axis, channel_axis = numbers.lhs_spec[:2]
        if params["batch_group_count"] != 1:
            self.lost[origin.path] = "a convolution in batch groups"
            return
        if bare is not None and all(
            bare.shape[axis] == x.shape[axis] for axis in (batch_axis, channel_axis)
        ):
            x = bare
        x = jnp.moveaxis(x, channel_axis, -1)
        # The kernel of a grouped convolution meets the same channel of every group.
        x = x.reshape(-1, x.shape[-1] // groups)
        out_shape, out_spec = eqn.outvars[0].aval.shape, numbers.out_spec
        outputs = math.prod(out_shape[axis] for axis in (out_spec[0], *out_spec[2:]))
        self._write(origin, [numbers.rhs_spec[1]], x, outputs)

    def _write(self, origin: Origin, axes: list[int], x: jax.Array, outputs: int) -> None:
        kernel_axes = tuple(axis for position in axes for axis in origin.axes[position])
        x = x.reshape(len(x), *(origin.shape[axis] for axis in kernel_axes))
        measured = self.observe(x)
        self.meetings.append(
            Meeting(origin.path, origin.levels + kernel_axes, len(x), outputs, measured)
        )


def _result(jaxpr: Jaxpr, eqn, inputs: list[Value]) -> list[Any]:
    """The arrays that one equation gives."""
    given = {
        variable: value
        for variable, value in zip(eqn.invars, inputs, strict=True)
        if not isinstance(variable, Literal)
    }
    alone = jaxpr.replace(constvars=[], invars=list(given), outvars=eqn.outvars, eqns=[eqn])
    return eval_jaxpr(alone, (), *(value.array for value in given.values()))


def _pooled(value: Value) -> Value:
    return value._replace(origin=value.origin and value.origin.pooled(), unpadded=None)


def _slice(value: Value, array) -> Value:
    origin = value.origin and value.origin.sliced()
    hidden = value.hidden_by or ("" if origin else "scan")
    return value._replace(array=array, origin=origin, hidden_by=hidden, unpadded=None)


def _without_padding(eqn, inputs: list[Value]):
    """The features that an equation pads with a constant."""
    if eqn.primitive.name != "pad" or inputs[1].from_batch:
        return None
    if any(low < 0 or high < 0 for low, high, _ in eqn.params["padding_config"]):
        return None
    return inputs[0].array if inputs[0].unpadded is None else inputs[0].unpadded

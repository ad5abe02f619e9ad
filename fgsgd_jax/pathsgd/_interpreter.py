"""Evaluates the path sums of a network, equation by equation of its jaxpr.

In place of the network's numbers, equations are evaluated on `PathSums`: ones for the input and
|w|^p for the weights. Constants stay numbers until an operation combines them with path sums.
Operations that do not map path sums to path sums are refused by name.
"""

import dataclasses
import functools
import itertools
from collections import Counter

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr

from fgsgd_jax import _jaxpr
from fgsgd_jax.pathsgd._primitives import RULES
from fgsgd_jax.pathsgd._values import (
    PathSums,
    Setting,
    Sign,
    Unsupported,
    any_on_input,
    is_concrete,
    is_constant,
    path_sums_of,
)


def evaluate(setting: Setting, jaxpr: Jaxpr, consts, inputs) -> list:
    """The outputs of a jaxpr: `PathSums`, `Sign`, or numbers where no path leads."""
    jaxpr = jaxpr.replace(eqns=_used_equations(jaxpr))
    atoms = itertools.chain(jaxpr.outvars, *(eqn.invars for eqn in jaxpr.eqns))
    use_counts = Counter(map(id, atoms))

    def read(atoms, values):
        # A kernel with several uses would add up derivatives at different scales.
        return [
            value if use_counts[id(atom)] == 1 else _without_kernel(value)
            for atom, value in zip(atoms, values, strict=True)
        ]

    def evaluate_equation(eqn, inputs):
        try:
            return _outputs(setting, eqn, read(eqn.invars, inputs))
        except Unsupported as error:
            # Each function that encloses the operation adds its name to the error.
            raise error.within(eqn.params.get("name"), _place(eqn)) from None

    return read(jaxpr.outvars, _jaxpr.evaluate(jaxpr, consts, inputs, evaluate_equation))


def _without_kernel(value):
    """The same value, no longer taken for unchanged weights."""
    return dataclasses.replace(value, kernel=None) if isinstance(value, PathSums) else value


def _used_equations(jaxpr: Jaxpr) -> list:
    """The equations that some output depends on."""
    wanted = {id(atom) for atom in jaxpr.outvars}
    used = []
    for eqn in reversed(jaxpr.eqns):
        if any(id(out) in wanted for out in eqn.outvars):
            used.append(eqn)
            wanted.update(id(atom) for atom in eqn.invars)
    return used[::-1]


def _outputs(setting: Setting, eqn, inputs: list) -> list:
    """The outputs of one equation."""
    name = eqn.primitive.name
    inner = _jaxpr.called_jaxpr(eqn)
    if inner is not None:
        return evaluate(setting, *inner, inputs)
    if name == "scan":
        return _scan(setting, eqn.params, inputs)
    if all(map(is_constant, inputs)):
        return _constants(eqn, inputs)
    if name == "cond" and is_constant(inputs[0]) and is_concrete(inputs[0]):
        branch = eqn.params["branches"][int(inputs[0])]
        return evaluate(setting, branch.jaxpr, branch.consts, inputs[1:])
    if name == "convert_element_type" and isinstance(inputs[0], Sign):
        return inputs
    if any(isinstance(value, Sign) for value in inputs) and name not in ("mul", "select_n"):
        raise Unsupported(f"uses the sign of a value ({name})")
    if name not in RULES:
        raise Unsupported(f"uses {ALIASES.get(name, name)}")
    outputs = RULES[name](setting, eqn.params, functools.partial(_bind, eqn), *inputs)
    return outputs if isinstance(outputs, list) else [outputs]


def _bind(eqn, *arrays):
    """The arrays that the primitive of an equation computes."""
    return eqn.primitive.bind(*arrays, **eqn.params)


def _constants(eqn, inputs: list) -> list:
    """The outputs of an equation between constants, as concrete numbers even under `jit`."""
    if all(map(is_concrete, inputs)):
        with jax.ensure_compile_time_eval():
            outputs = _bind(eqn, *inputs)
    else:
        outputs = _bind(eqn, *inputs)
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


# --- loops ---------------------------------------------------------------------------------------


def _scan(setting: Setting, params, inputs: list) -> list:
    """A loop of known length, unrolled. All steps use the same weights."""
    body, num_consts, num_carry = params["jaxpr"], params["num_consts"], params["num_carry"]
    inputs = [_without_kernel(value) for value in inputs]
    consts, carry = inputs[:num_consts], inputs[num_consts : num_consts + num_carry]
    xs = inputs[num_consts + num_carry :]
    steps = range(params["length"])
    ys = []
    for step in reversed(steps) if params["reverse"] else steps:
        x = [_entry(value, step) for value in xs]
        outputs = evaluate(setting, body.jaxpr, body.consts, [*consts, *carry, *x])
        carry = outputs[:num_carry]
        ys.append(outputs[num_carry:])
    if params["reverse"]:
        ys.reverse()
    return [*carry, *(_stack(setting, values) for values in zip(*ys, strict=True))]


def _entry(value, step: int):
    """One entry of the first axis."""
    if isinstance(value, PathSums):
        return PathSums(jax.tree.map(lambda part: part[step], value.sums), value.on_input)
    return value[step]


def _stack(setting: Setting, values):
    """The values of all steps along a new first axis."""
    if not any(isinstance(value, PathSums) for value in values):
        return jnp.stack(values)
    path_sums = [path_sums_of(setting, value) for value in values]
    sums = jax.tree.map(lambda *parts: jnp.stack(parts), *path_sums)
    return PathSums(sums, any_on_input(*values))


# --- error messages ------------------------------------------------------------------------------

ALIASES = {"logistic": "sigmoid", "exp": "exp (as softmax and elu do)"}
LIBRARIES = ("/jax/", "/flax/", "/optax/", "/fgsgd_jax/pathsgd/", "/fgsgd_jax/_jaxpr.py")


def _place(eqn) -> str:
    """Where an operation was written: its layer, if Flax named it, and its line."""
    scope = str(eqn.source_info.name_stack)
    traceback = eqn.source_info.traceback
    lines = (
        f"{frame.file_name.rsplit('/', 1)[-1]}:{frame.line_num}"
        for frame in (traceback.frames if traceback else ())
        if not any(part in frame.file_name for part in LIBRARIES)
    )
    line = next(lines, "")
    return (f" in {scope}" if scope else "") + (f" ({line})" if line else "")

"""Evaluating a jaxpr equation by equation, on values of any kind in place of arrays.

A jaxpr is JAX's record of a function: a list of equations, each of which applies one primitive.
Shared by the two interpreters of this package: `features` (which kernels are applied to features)
and `pathsgd` (sums over the paths of a network).
"""

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

# Primitives that only call an inner jaxpr, so that its equations can take their place.
CALL_PRIMITIVES = {
    "jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2",
    "custom_jvp_call", "custom_vjp_call",
}  # fmt: skip


def called_jaxpr(eqn) -> tuple[Jaxpr, Sequence[Any]] | None:
    """The inner jaxpr of a call equation and its constants; None for any other equation."""
    if eqn.primitive.name not in CALL_PRIMITIVES:
        return None
    inner = eqn.params["jaxpr"] if "jaxpr" in eqn.params else eqn.params["call_jaxpr"]
    return (inner.jaxpr, inner.consts) if isinstance(inner, ClosedJaxpr) else (inner, ())


def evaluate(
    jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[Any], evaluate_equation: Callable
) -> list[Any]:
    """Evaluates all equations of a jaxpr in order.

    Args:
        jaxpr: The jaxpr.
        consts: The values of its constants.
        inputs: The values of its inputs, of any type.
        evaluate_equation: Called as `evaluate_equation(eqn, inputs)` with the values of the
            equation's inputs; literals are passed as plain numbers. Returns the list of its
            outputs.

    Returns:
        The values of the outputs of the jaxpr.
    """
    values = dict(
        zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True),
    )

    def read(atom):
        return atom.val if isinstance(atom, Literal) else values[atom]

    for eqn in jaxpr.eqns:
        outputs = evaluate_equation(eqn, [read(atom) for atom in eqn.invars])
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]

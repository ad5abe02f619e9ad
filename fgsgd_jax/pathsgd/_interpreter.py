"""The pass of masses through a network, read off the equations that JAX writes it down in.

A network is traced once, as JAX traces any function. Then each equation is evaluated on masses
instead of numbers: constants stay numbers until they meet a mass, |w|^p takes the place of every
parameter, ones that of the input. What is no sum over paths is refused by name.
"""

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from fgsgd_jax.pathsgd import _extended_range
from fgsgd_jax.pathsgd._extended_range import Mass
from fgsgd_jax.pathsgd._primitives import RULES, Flow, Kernel, Setting, Sign, Unsupported, mass_of

CALLS = {
    "jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2", "custom_jvp_call",
    "custom_vjp_call",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Network:
    """A network as JAX wrote it down.

    Attributes:
        equations: The jaxpr, from the weights and one example to the outputs.
        weights: The float leaves of the parameters, in order, in the dtype of the masses.
        example_shape: The shape of a batch of one example.
    """

    equations: ClosedJaxpr
    weights: list[jax.Array]
    example_shape: tuple[int, ...]

    @property
    def dtype(self):
        return working_dtype(self.weights)

    def masses(self, p, *, wide: bool = True) -> list[Mass]:
        """|w|^p of all weights."""
        return [_extended_range.power_of(weight, p, wide=wide) for weight in self.weights]

    def kernels(self, p, taps: list, scales: list) -> tuple[list[Mass], list[Kernel]]:
        """|w|^p of all weights as plain floats, and w itself, for a derivative by the taps.

        Args:
            p: The power.
            taps: Zeros like the weights.
            scales: Zeros like the weights.
        """
        masses = self.masses(p, wide=False)
        tapped = [
            mass._replace(mantissa=mass.mantissa + tap)
            for mass, tap in zip(masses, taps, strict=True)
        ]
        return tapped, list(map(Kernel, self.weights, taps, scales))

    def total(self, masses: list[Mass], p, kernels: list[Kernel] | None = None) -> Mass:
        """Σ over all paths of the product of masses on them.

        Args:
            masses: Those of the weights.
            p: The power that constants are taken to.
            kernels: The same weights as kernels, in a pass on plain floats.

        Raises:
            ValueError: If the network does something that no sum over paths describes.
        """
        setting = Setting(p, self.dtype, wide=masses[0].exponent is not None)
        x = Flow(
            _extended_range.ones(self.example_shape, self.dtype, wide=setting.wide), on_input=True
        )
        weights = zip(masses, kernels or [None] * len(masses), strict=True)
        inputs = [*(Flow(mass, on_input=False, kernel=kernel) for mass, kernel in weights), x]
        try:
            outputs = _evaluated(setting, self.equations.jaxpr, self.equations.consts, inputs)
        except Unsupported as found:
            raise ValueError(str(found)) from None
        if not any(isinstance(output, Flow) and output.on_input for output in outputs):
            raise ValueError(
                "apply_fn(params, x) returned nothing that depends on x, so the network has no "
                "paths; return its outputs."
            )
        flows = [output.mass for output in outputs if isinstance(output, Flow)]
        sums = [_extended_range.summed(mass, tuple(range(mass.mantissa.ndim))) for mass in flows]
        return functools.reduce(_extended_range.plus, sums)


def read(apply_fn: Callable, params: Any, input_shape: Sequence[int]) -> Network:
    """Traces a network. Float leaves of the parameters are weights, others constants."""
    leaves, structure = jax.tree.flatten(params)
    dtype = working_dtype(leaves)
    weights = [jnp.asarray(leaf, dtype) for leaf in leaves if is_weight(leaf)]
    if not weights:
        raise ValueError("The parameters hold no float array, so no path has a weight.")
    # Traced in the dtype of the masses, whatever that of the weights: only equations are wanted.
    example = jax.ShapeDtypeStruct((1, *input_shape), dtype)
    shapes = [jax.ShapeDtypeStruct(weight.shape, dtype) for weight in weights]

    def of_weights(weights, x):
        values = iter(weights)
        filled = [next(values) if is_weight(leaf) else leaf for leaf in leaves]
        return apply_fn(structure.unflatten(filled), x)

    return Network(jax.make_jaxpr(of_weights)(shapes, example), weights, example.shape)


def is_weight(leaf) -> bool:
    """Whether a leaf of the parameters is on edges of the network."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def working_dtype(leaves) -> Any:
    """float64 if a parameter has it, else float32, also for half precision."""
    wide = any(jnp.result_type(leaf) == jnp.float64 for leaf in leaves)
    return jnp.dtype(jnp.float64 if wide else jnp.float32)


def _evaluated(setting: Setting, jaxpr: Jaxpr, consts, inputs) -> list:
    """The values of the outputs of a jaxpr: `Flow`, `Sign`, or numbers where no path leads."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

    equations = _needed(jaxpr)
    uses = Counter(map(id, itertools.chain(jaxpr.outvars, *(eqn.invars for eqn in equations))))

    def read(atom):
        if isinstance(atom, Literal):
            return atom.val
        # A kernel that is used again would collect derivatives at more than one scale.
        return values[atom] if uses[id(atom)] == 1 else _shared(values[atom])

    for eqn in equations:
        given = [read(atom) for atom in eqn.invars]
        try:
            outputs = _outputs(setting, eqn, given)
        except Unsupported as found:
            # On its way out of inner functions an error gathers what they are called.
            raise found.within(eqn.params.get("name"), _place(eqn)) from None
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _shared(value):
    """The same value, as one that is used in several places."""
    return dataclasses.replace(value, kernel=None) if isinstance(value, Flow) else value


def _needed(jaxpr: Jaxpr) -> list:
    """The equations that some output depends on."""
    wanted = {id(atom) for atom in jaxpr.outvars}
    needed = []
    for eqn in reversed(jaxpr.eqns):
        if any(id(out) in wanted for out in eqn.outvars):
            needed.append(eqn)
            wanted.update(id(atom) for atom in eqn.invars)
    return needed[::-1]


def _outputs(setting: Setting, eqn, given: list) -> list:
    name = eqn.primitive.name
    if name in CALLS:
        inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr")
        if isinstance(inner, ClosedJaxpr):
            return _evaluated(setting, inner.jaxpr, inner.consts, given)
        return _evaluated(setting, inner, (), given)
    if name == "scan":
        return _scanned(setting, eqn.params, given)
    if not any(isinstance(value, (Flow, Sign)) for value in given):
        return _computed(eqn, given)
    if (
        name == "cond"
        and not isinstance(given[0], (Flow, Sign))
        and _extended_range.is_concrete(given[0])
    ):
        branch = eqn.params["branches"][int(given[0])]
        return _evaluated(setting, branch.jaxpr, branch.consts, given[1:])
    if name == "convert_element_type" and isinstance(given[0], Sign):
        return given
    if any(isinstance(value, Sign) for value in given) and name not in ("mul", "select_n"):
        raise Unsupported(f"uses the sign of a value ({name})")
    if name not in RULES:
        raise Unsupported(f"uses {ALIASES.get(name, name)}")
    outputs = RULES[name](setting, eqn.params, lambda *args: _bound(eqn, args), *given)
    return outputs if isinstance(outputs, list) else [outputs]


def _bound(eqn, args):
    return eqn.primitive.bind(*args, **eqn.params)


def _computed(eqn, given: list) -> list:
    """The numbers of an equation between constants, known at once even under `jit`."""
    if all(map(_extended_range.is_concrete, given)):
        with jax.ensure_compile_time_eval():
            outputs = _bound(eqn, given)
    else:
        outputs = _bound(eqn, given)
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def _scanned(setting: Setting, params, given: list) -> list:
    """A loop of known length, step by step: its weights are shared by all steps."""
    closed, consts, carried = params["jaxpr"], params["num_consts"], params["num_carry"]
    given = [_shared(value) for value in given]
    fixed, carry = given[:consts], given[consts : consts + carried]
    rows = given[consts + carried :]
    steps = range(params["length"])
    stacked = []
    for step in reversed(steps) if params["reverse"] else steps:
        row = [_row(value, step) for value in rows]
        outputs = _evaluated(setting, closed.jaxpr, closed.consts, [*fixed, *carry, *row])
        carry = outputs[:carried]
        stacked.append(outputs[carried:])
    if params["reverse"]:
        stacked.reverse()
    return [*carry, *(_stacked(setting, values) for values in zip(*stacked, strict=True))]


def _row(value, step: int):
    if isinstance(value, Flow):
        return Flow(jax.tree.map(lambda part: part[step], value.mass), value.on_input)
    return value[step]


def _stacked(setting: Setting, values):
    if not any(isinstance(value, Flow) for value in values):
        return jnp.stack(values)
    masses = [mass_of(setting, value) for value in values]
    mass = jax.tree.map(lambda *parts: jnp.stack(parts), *masses)
    return Flow(mass, any(isinstance(value, Flow) and value.on_input for value in values))


# --- where in a network something is refused -----------------------------------------------------

ALIASES = {"logistic": "sigmoid", "exp": "exp (as softmax and elu do)"}


def _place(eqn) -> str:
    """Where an operation was written: its layer, if Flax named it, and its line."""
    scope = str(eqn.source_info.name_stack)
    traceback = eqn.source_info.traceback
    ours = ("/jax/", "/flax/", "/fgsgd_jax/paths/", "/optax/")
    lines = (
        f"{frame.file_name.rsplit('/', 1)[-1]}:{frame.line_num}"
        for frame in (traceback.frames if traceback else ())
        if not any(part in frame.file_name for part in ours)
    )
    line = next(lines, "")
    inside = f" in {scope}" if scope else ""
    return inside + (f" ({line})" if line else "")

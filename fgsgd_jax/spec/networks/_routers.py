"""Routers, which decide what experts see, and need their length for it."""

import re
from collections.abc import Mapping

from fgsgd_jax.spec.networks._names import keys_of, module_and_name, words_of

_GATES = frozenset({"gate", "gating", "gater"})
_OF_GATES = frozenset("network net layer linear dense fc func fn".split())


def routes_beside_experts(path: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a weight is a router: it stands in one module with experts, and is called a gate.

    Under any other name it is one if it has as many outputs as there are experts.

    Args:
        path: The path of the weight.
        shapes: The shapes of all leaves without stacked layers.

    Example:
        >>> routes_beside_experts("mlp/gate/kernel", {"mlp/experts/0/up/kernel": (8, 16)})
        True
        >>> shapes = {"mlp/assign/kernel": (64, 8), "mlp/experts/w1": (8, 64, 256)}
        >>> routes_beside_experts("mlp/assign/kernel", shapes)
        True
    """
    module, name = module_and_name(path)
    below = {other: keys_of(other) for other in shapes}
    experts = {
        inner: shapes[other]
        for other, keys in below.items()
        if keys[: len(module)] == module
        and "expert" in (inner := "/".join(keys[len(module) :])).lower()
    }
    words, shape = set(words_of(name)), shapes.get(path, ())
    if not experts or "expert" in path.lower():
        return False
    if words & _GATES and words <= _GATES | _OF_GATES:
        return True
    listed = {found[0] for inner in experts if (found := re.search(r"\d+", inner))}
    counts = {its[0] for its in experts.values() if len(its) > 2} | {len(listed)}
    return len(shape) == 2 and min(shape) in counts - {0, 1}

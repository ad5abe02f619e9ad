"""Feed-forward layers whose weights have short names, such as `w1` and `w_gate`."""

from collections.abc import Mapping

from fgsgd_jax.spec.networks._attention import Shape, beside
from fgsgd_jax.spec.networks._kinds import kind_of
from fgsgd_jax.spec.networks._names import module_and_name, words_of

# `w_gate`, `wi_0`, `w2`, `gate_up`, `fc_in`; T5X, Llama, MaxText, AlphaFold and others.
_NAMES = frozenset("w wi wo gate gated up down in out i o u v proj fc ff transition".split())
_NAMES |= {"net", "layers"}  # of lists, as `net/1` and `net/4`


def is_of_feed_forward(path: str, shapes: Mapping[str, Shape]) -> bool:
    """Whether a weight is of a feed-forward layer, by its name and the weights beside it.

    Its name is one of those above, and a weight with such a name beside it leads back: its inputs
    are the outputs of this one, or half of them if they hold a gate, and the other way round. A
    square weight leads back to itself, so there one beside it has to be dense by its path.

    Args:
        path: The path of the weight.
        shapes: The shapes of all leaves without stacked layers.

    Example:
        >>> shapes = {"0/w1": (8, 32), "0/w2": (32, 8), "0/w3": (8, 32), "0/wx": (8, 32)}
        >>> [is_of_feed_forward(path, shapes) for path in shapes]
        [True, True, True, False]
    """
    shape = shapes[path]
    if len(shape) not in (2, 3) or not _is_named_so(path):
        return False
    others = [other for other in beside(path, shapes) if _is_named_so(other)]
    if shape[-2] == shape[-1]:
        return any(shapes[other] == shape and kind_of(other) == "dense" for other in others)
    return any(
        _leads_back(shape, shapes[other]) or _leads_back(shapes[other], shape) for other in others
    )


def gates_before(path: str, shapes: Mapping[str, Shape]) -> str:
    """What follows the axis of gates in a weight of three axes: "inputs", "outputs", or "".

    The matrix beside it that leads back from the hidden features tells them from the others. Gemma
    has (gates, hidden, features) as well as (gates, features, hidden), under one name. Nobody has
    fewer hidden features than others, so without that matrix (gates, long, short) is unclear.

    Args:
        path: The path of the weight.
        shapes: The shapes of all leaves without stacked layers.

    Example:
        >>> shapes = {"mlp/gating_einsum": (2, 256, 64), "mlp/linear": (256, 64)}
        >>> gates_before("mlp/gating_einsum", shapes)
        'outputs'
    """
    _, first, second = shapes[path]
    back = {
        shapes[other]
        for other in beside(path, shapes)
        if len(shapes[other]) == 2 and kind_of(other) in ("dense", "")
    }
    inputs_first, outputs_first = (second, first) in back, (first, second) in back
    if first != second and inputs_first != outputs_first:
        return "inputs" if inputs_first else "outputs"
    of_gemma = "einsum" in path and first == second
    return "inputs" if first <= second and not of_gemma else ""


def _is_named_so(path: str) -> bool:
    words = words_of(module_and_name(path)[1])
    return bool(words) and set(words) <= _NAMES and kind_of(path) in ("dense", "")


def _leads_back(inward: Shape, outward: Shape) -> bool:
    """Whether the second of two weights reads what the first makes, or half of it, and back.

    If outputs come first, it is the first that reads what the second makes.
    """
    return (
        len(inward) == len(outward)
        and inward[:-2] == outward[:-2]
        and inward[-2] == outward[-1]
        and (inward[-1] in (outward[-2], 2 * outward[-2]) or 2 * inward[-1] == outward[-2])
    )

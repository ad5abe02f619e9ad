"""Recurrent matrices, by the names that frameworks have for them and by their shapes."""

import re
from collections.abc import Mapping

from fgsgd_jax.spec._reasons import Reason
from fgsgd_jax.spec.networks._attention import Shape, beside
from fgsgd_jax.spec.networks._kinds import kind_of
from fgsgd_jax.spec.networks._names import WEIGHT_NAMES, keys_of, module_and_name
from fgsgd_jax.spec.networks._stack_axes import outputs_first

RECURRENT = "recurrent matrix"

# PyTorch and Equinox; Keras; others write it out; Haiku's vanilla RNN.
_CERTAIN = re.compile(
    r"(.*/)?(weight_hh(_l\d+(_reverse)?(_raw)?)?|recurrent_kernel|hidden_to_hidden|vanilla_rnn\w*/linear_1)"
)
# A matrix for each gate, or without gates; of Flax, and in the notations of books.
_ONE_GATE = re.compile(r"(.*/)?(h[ifgorzn]?|U_?[zrhifgco]|[wW]_?h[ifgcozrn])")
# NNX; Haiku; by hand. A module `recurrent` may as well hold something else.
_ALL_GATES = re.compile(
    r"(.*/)?(dense_h|[wW]_?h[hifgcozrn]?|hh|h2h|(fc|lin|linear)_hh?|([wW]_?)?rec(urrent)?|U(_?[zrhifgco])?)"
)
# The input matrices that stand beside them.
_INPUTS = re.compile(
    r"i[ifgorzn]?_?|dense_i|[wW]_?ih?|[wW]_?x[hifgcozrn]?|ih|xh|[ix]2h|(fc|lin|linear)_[ix]h?"
    r"|([wW]_?)?in(puts?)?|W(_?[zrhifgco])?|weight_ih(_l\d+(_reverse)?)?|input_to_hidden"
)
# Haiku's LSTM has one weight for its input and its last output, stacked on the first axis.
_INPUT_AND_RECURRENT = re.compile(r"(^|.*/)lstm\w*/linear/w")

_GATES = {"lstm": {4}, "gru": {3}}
_ANY = {1, 3, 4}


def holds_input_and_recurrent(path: str) -> bool:
    """Whether a weight is that of Haiku's LSTM, which holds two matrices."""
    return _INPUT_AND_RECURRENT.fullmatch(path) is not None


def is_input_matrix(path: str, shapes: Mapping[str, Shape]) -> bool:
    """Whether a weight multiplies the input of a recurrent layer, by its name and those beside it.

    Example:
        >>> is_input_matrix(
        ...     "lstm/weight_ih", {"lstm/weight_ih": (32, 5), "lstm/weight_hh": (32, 8)}
        ... )
        True
    """
    layer, _, last = path.rpartition("/")
    of_keras = last == "kernel" and f"{layer}/recurrent_kernel" in shapes
    named = _INPUTS.fullmatch(module_and_name(path)[1]) is not None
    matrices = [other for other in beside(path, shapes) if len(shapes[other]) > 1]
    return of_keras or (
        named and any(recurrent(other, shapes[other], shapes) for other in matrices)
    )


def recurrent(path: str, shape: Shape, shapes: Mapping[str, Shape]) -> str:
    """`RECURRENT`, or why a weight that is called so stays Euclidean; "" for all other names.

    Args:
        path: The path of the weight.
        shape: Its shape without stacked layers.
        shapes: The shapes of all leaves without stacked layers.

    Example:
        >>> recurrent("rnn/weight_hh_l0", (32, 8), {})
        'recurrent matrix'
        >>> print(recurrent("rnn/w_h", (8, 16), {}))
        no name says how many gates it holds: name them in a rule
    """
    module, last = module_and_name(path)
    name = "/".join((*module, last))
    of_one_gate = _ONE_GATE.fullmatch(name) is not None
    certain = _CERTAIN.fullmatch(name) is not None
    if not (certain or of_one_gate or _ALL_GATES.fullmatch(name)) or _has_u_beside(path, shapes):
        return ""
    around = module if last == "recurrent" else keys_of(path)
    named = any(kind_of(key) == "recurrent" or "cell" in key.lower() for key in around)
    inputs = any(_INPUTS.fullmatch(module_and_name(other)[1]) for other in beside(path, shapes))
    if not (certain or named) and len(shape) == 2 and max(shape) % min(shape):
        return "not square"
    if not (certain or named or inputs):
        return Reason.NOT_RECURRENT
    if len(shape) > 3:
        return f"{len(shape)} axes, as of a convolution: name them in a rule"
    small, large = sorted(shape[-2:])
    if large % small:
        return "not square"
    if last == "U" and shapes.get(f"{path.removesuffix('U')}W") == shape:
        return Reason.U_OR_W
    of_cell = [gates for word, gates in _GATES.items() if word in path.lower()]
    known = {1} if of_one_gate else of_cell[0] if of_cell else _ANY
    if large // small in known:
        return RECURRENT
    projects = known == {4} and large // small % 4 == 0
    return "its 4 gates are not square: its cell projects its output" if projects else Reason.GATES


def _has_u_beside(path: str, shapes: Mapping[str, Shape]) -> bool:
    """Whether a weight is the W of a pair of W and U with one suffix: then U is recurrent."""
    module, name = keys_of(path)[:-1], keys_of(path)[-1]
    if name in WEIGHT_NAMES and name != "W":
        module, name = module[:-1], module[-1] if module else ""
    suffix = re.fullmatch(r"W(_?[zrhifgco])", name)
    twin = (*module, f"U{suffix[1]}") if suffix else ()
    return bool(twin) and any(keys_of(other)[: len(twin)] == twin for other in shapes)


def cut_by_gates(shape: Shape) -> str:
    """The cut of a weight into one square matrix for each gate, as text.

    Example:
        >>> cut_by_gates((8, 32)), cut_by_gates((24, 8))
        ('in:rows (gates=4:stack out:columns)', '(gates=3:stack out:columns) in:rows')
    """
    cut = f"in:rows (gates={max(shape) // min(shape)}:stack out:columns)"
    return cut if shape[0] < shape[1] else outputs_first(cut)

"""Names: what a path consists of, and what frameworks call weights.

Paths are asked about again and again, for the leaves beside each leaf, so answers are remembered.
"""

import functools
import re

WEIGHT_NAMES = frozenset({"kernel", "kernels", "w", "W", "weight", "weights", "embedding"})
"""What frameworks call the weight of a layer, whatever the layer is."""

WEIGHT_WORDS = frozenset({name.lower() for name in WEIGHT_NAMES} - {"embedding"})
"""The same, as words in longer names; an embedding is no weight of any layer."""

BIASES = frozenset({"bias", "b", "biases", "bq", "bk", "bv", "bo"})
NORMALIZATIONS = frozenset({"scale", "gamma", "beta", "offset", "mean", "var", "weight_g"})

_BOXES = {"value", "raw_value", "unbox", "array"}
_OF_PYTORCH = re.compile(r"(\w+_)?weight(_(ih|hh|hr)(_\w+)?)?")

remembered = functools.lru_cache(maxsize=1 << 16)


@remembered
def keys_of(path: str) -> tuple[str, ...]:
    """The keys of a path without those that name nothing.

    These are boxes of leaves, as Flax's `kernel/value` and Haliax's `kernel/array`, and `~`, which
    Haiku writes before the names of modules that are made in a constructor.
    """
    keys = path.replace(".", "/").split("/")  # state dicts of PyTorch have whole paths as keys
    keys = [key for key in keys if key != "~"] or keys
    box = keys[-1] in _BOXES or keys[-1].isdigit()
    boxed = len(keys) > 1 and box and is_leaf_name(keys[-2])
    return tuple(keys[:-1] if boxed else keys)


@remembered
def module_and_name(path: str) -> tuple[tuple[str, ...], str]:
    """The keys of the module that a weight stands in, and what the weight is called there.

    Keys such as `kernel`, and numbers in lists, are not what it is called.

    Example:
        >>> module_and_name("h/attn/o_proj/kernel"), module_and_name("to_out/0/w")
        ((('h', 'attn'), 'o_proj'), ((), 'to_out'))
    """
    keys = list(keys_of(path))
    if len(keys) > 1 and is_leaf_name(keys[-1]):
        keys.pop()
    while len(keys) > 1 and keys[-1].isdigit():
        keys.pop()
    return tuple(keys[:-1]), keys[-1]


def words_of(key: str) -> list[str]:
    """The words of a key in lower case, without numbers: `DenseGeneral_0` is dense, general."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", key)]


def is_called_as_in_pytorch(path: str) -> bool:
    """Whether a weight has a name of Equinox and PyTorch, whose outputs come first.

    Example:
        >>> names = ("weight", "weight_hh_l0", "in_proj_weight", "kernel", "weights")
        >>> [is_called_as_in_pytorch(f"layer/{name}") for name in names]
        [True, True, True, False, False]
    """
    return _OF_PYTORCH.fullmatch(keys_of(path)[-1]) is not None


def is_transposed(path: str) -> bool:
    """Whether a leaf belongs to a transposed convolution.

    Example:
        >>> is_transposed("ConvTranspose_0/kernel"), is_transposed("Conv_0/kernel")
        (True, False)
    """
    return any({"transpose", "transposed", "deconv"} & set(words_of(key)) for key in keys_of(path))


def may_have_outputs_before_inputs(path: str) -> bool:
    """Whether a leaf is called as Haiku calls transposed convolutions, whose layout is HWOI."""
    return keys_of(path)[-1] == "w" and is_transposed(path)


def is_leaf_name(key: str) -> bool:
    """Whether a key names an array of a layer, not a layer."""
    return key in WEIGHT_NAMES | BIASES | NORMALIZATIONS

"""Outputs of networks by their names: parameters of distributions, colors, actions, values."""

import re
from collections.abc import Iterable

from fgsgd_jax._text import natural_order
from fgsgd_jax.spec.networks._dense import is_dense
from fgsgd_jax.spec.networks._names import module_and_name, words_of

_OF_MODULES = frozenset("decoder dec readout generator".split())  # whose last layer gives an output
# In lower case without underscores, as one name may be written as two words or as one.
_ALWAYS = _OF_MODULES | frozenset(
    "mu mean means logvar logvariance logstd logsigma sigma std stddev variance rgb rgba color "
    "colour density sdf occupancy policy pi value values advantage action actions reward rewards "
    "qvalue qvalues loc".split()
)
_ONCE = frozenset("out output outputs final last".split())  # in a block, it may be a hidden layer
_FILLING = frozenset("layer layers dense linear fc proj projection head net to kernel".split())
_OF_PLACES = frozenset("enc encoder dec z q x latent actor critic".split())  # before such names


def outputs_by_name(paths: Iterable[str]) -> frozenset[str]:
    """The paths of dense weights whose names are those of outputs.

    Of several that differ in the number behind the name, as in a module `policy`, it is the last.
    A name such as `out` counts if no other path is alike up to numbers.

    Example:
        >>> paths = ["enc/fc_1/kernel", "enc/log_var/kernel", "policy/0/kernel", "policy/1/kernel"]
        >>> sorted(outputs_by_name(paths))
        ['enc/log_var/kernel', 'policy/1/kernel']
    """
    paths = list(paths)
    dense = [path for path in paths if is_dense(path, paths)]
    lists: dict[tuple, list[str]] = {}
    for path in dense:
        module, name = module_and_name(path)
        lists.setdefault((module, re.sub(r"_?\d+", "", name)), []).append(path)
    last = [max(alike, key=natural_order) for alike in lists.values()]
    patterns = [without_numbers(path) for path in dense]
    return frozenset(
        path
        for path in last
        if _is_always_output(path)
        or (is_called_last(path) and patterns.count(without_numbers(path)) == 1)
    )


def is_of_decoder(path: str) -> bool:
    """Whether a layer is, or stands in, what is called a decoder, which follows all others.

    Example:
        >>> [is_of_decoder(f"{module}/kernel") for module in ("decoder/Dense_1", "enc/Dense_1")]
        [True, False]
    """
    return bool(_OF_MODULES & set(_telling(path)))


def without_numbers(path: str) -> str:
    """A path without its numbers, as Haiku's `linear` and `linear_1` are of one list.

    Example:
        >>> without_numbers("mlp/~/linear_1/w"), without_numbers("Block_0/Dense_1/kernel")
        ('mlp/~/linear/w', 'Block/Dense/kernel')
    """
    return re.sub(r"[_/]?\d+", "", path)


def _is_always_output(path: str) -> bool:
    """Whether a weight is called as an output is, and nothing else."""
    words = _telling(path)
    own = [word for word in words if word not in _OF_PLACES] or words
    always = _ALWAYS if own == words else _ALWAYS | {"scale"}  # `z_scale`, but not `scale` alone
    named = "".join(own) in always or set(own) <= always | _ONCE
    return named and not set(own) <= _ONCE


def is_called_last(path: str) -> bool:
    """Whether the name of a weight begins or ends with a word for the last layer."""
    words = _telling(path)
    return bool({*words[:1], *words[-1:]} & _ONCE)


def _telling(path: str) -> list[str]:
    """The words of the name of a weight that say something, or those of a decoder it stands in."""
    module, name = module_and_name(path)
    words = [word for word in words_of(name) if word not in _FILLING]
    around = words_of(next((key for key in reversed(module) if words_of(key)), ""))
    return words or [word for word in around if word in _OF_MODULES]

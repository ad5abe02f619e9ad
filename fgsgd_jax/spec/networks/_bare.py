"""Parameters without a layer of their own, whose names are those of layers elsewhere.

Where other weights are called `kernel` or `weight`, a parameter `proj` or `query` belongs to no
layer. Frameworks lay out layers; how such a parameter is laid out only its user knows.
"""

from collections.abc import Iterable, Mapping

from fgsgd_jax.spec.networks._attention import Shape, beside, is_attention_output
from fgsgd_jax.spec.networks._kinds import kind_of, may_name_weight
from fgsgd_jax.spec.networks._names import (
    WEIGHT_NAMES,
    WEIGHT_WORDS,
    keys_of,
    module_and_name,
    words_of,
)

_PROJECTIONS = {"proj", "projection"}
_OF_TOWERS = {"text", "visual", "vision", "image", "output", "out", "final"}
_QUERIES = {"query", "q"}
_OF_WEIGHTS = WEIGHT_WORDS | {"matrix"}
_OF_DISTRIBUTIONS = {
    "mu", "mean", "loc", "rho", "sigma", "std", "stddev", "scale", "logvar", "logsigma", "var",
    "log", "posterior", "prior",
}  # fmt: skip


def is_projection_alone(path: str, shapes: Mapping[str, Shape]) -> bool:
    """Whether a matrix is a parameter such as `visual/proj` of CLIP, which has inputs first.

    All other matrices of its module have layers of their own.

    Args:
        path: The path of the parameter.
        shapes: The shapes of all leaves without stacked layers.

    Example:
        >>> shapes = {"visual/proj": (64, 48), "visual/conv/weight": (64, 3, 8, 8)}
        >>> is_projection_alone("visual/proj", shapes)
        True
    """
    words = set(words_of(keys_of(path)[-1]))
    named = bool(words & _PROJECTIONS) and words <= _PROJECTIONS | _OF_TOWERS
    in_layer = any(kind_of(key) in ("attention", "dense") for key in module_and_name(path)[0][-1:])
    if not (named and len(shapes[path]) == 2) or in_layer:
        return False
    return _has_layers(shapes) and not _alike(path, shapes)


def may_be_learned_queries(path: str, shapes: Mapping[str, Shape]) -> bool:
    """Whether a parameter `query` may be vectors that are learned, not a weight that makes queries.

    It is a weight if keys, values or an output that are parameters as well stand beside it.

    Example:
        >>> shapes = {"query": (8, 64), "attn/query": (64, 64), "attn/key": (64, 64)}
        >>> [may_be_learned_queries(path, shapes) for path in ("query", "attn/query")]
        [True, False]
    """
    if not (_is_bare(path) and set(words_of(keys_of(path)[-1])) <= _QUERIES):
        return False
    return not any(
        kind_of(other) == "query" or is_attention_output(other, shapes)
        for other in _alike(path, shapes)
    )


def is_own_parameter(path: str, shapes: Mapping[str, Shape]) -> bool:
    """Whether a matrix is no weight of a layer, as `Lambda_re` and `A_log` of state spaces.

    Its own name has no word for a weight or a layer, and other matrices of the tree have layers.

    Args:
        path: The path of the parameter.
        shapes: The shapes of all leaves without stacked layers.

    Example:
        >>> shapes = {"ssm/A_log": (64, 16), "ssm/W1": (8, 8), "out/kernel": (64, 64)}
        >>> [path for path in shapes if is_own_parameter(path, shapes)]
        ['ssm/A_log']
    """
    named = may_name_weight(keys_of(path)[-1], _OF_WEIGHTS)
    return not named and kind_of(path) == "" and _has_layers(shapes)


def is_of_distribution(path: str) -> bool:
    """Whether a leaf is a mean or deviation of weights, as in noisy and Bayesian layers.

    Example:
        >>> [is_of_distribution(f"noisy/{name}") for name in ("kernel_mu", "sigma_w", "kernel")]
        [True, True, False]
        >>> is_of_distribution("mu/kernel")  # a layer that gives a mean
        False
    """
    words = set(words_of(keys_of(path)[-1]))
    return bool(words & _OF_WEIGHTS and words & _OF_DISTRIBUTIONS) and words <= (
        _OF_WEIGHTS | _OF_DISTRIBUTIONS
    )


def _has_layers(shapes: Mapping[str, Shape]) -> bool:
    """Whether any matrix of a tree has a layer of its own."""
    return any(not _is_bare(path) for path, its in shapes.items() if len(its) > 1)


def _alike(path: str, shapes: Mapping[str, Shape]) -> Iterable[str]:
    """The other weights of the module that have no layer of their own."""
    return [
        other
        for other in beside(path, shapes)
        if len(shapes[other]) > 1
        and _is_bare(other)
        and kind_of(other) not in ("embedding", "token", "bias")
    ]


def _is_bare(path: str) -> bool:
    """Whether a parameter has no layer of its own, in which it would be called `kernel`, say."""
    return keys_of(path)[-1] not in WEIGHT_NAMES

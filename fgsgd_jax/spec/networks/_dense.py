"""Dense layers by their paths, in networks that need have no attention.

The critics of reinforcement learning are called `q_1` and `value_fc1`, as queries and values are.
"""

from collections.abc import Iterable

from fgsgd_jax.spec.networks._kinds import kind_of
from fgsgd_jax.spec.networks._names import keys_of, words_of

_FUSED = {"qkv", "kv", "wq", "wk", "wv", "wqkv", "wkv"}


def is_dense(path: str, paths: Iterable[str]) -> bool:
    """Whether a path names a dense layer, or none but a query or value without keys beside it.

    Args:
        path: The path of a matrix.
        paths: The paths of all leaves.

    Example:
        >>> is_dense("value_1/kernel", ["value_0/kernel", "value_1/kernel", "policy_0/kernel"])
        True
        >>> is_dense("value/kernel", ["query/kernel", "key/kernel", "value/kernel"])
        False
    """
    kind = kind_of(path, 2)
    return kind in ("dense", "") or (kind == "query" and not _has_keys_beside_it(path, paths))


def _has_keys_beside_it(path: str, paths: Iterable[str]) -> bool:
    """Whether a query, key or value is of attention, by its path or the keys beside it."""
    keys = keys_of(path)
    places = [place for place, key in enumerate(keys) if kind_of(key) == "query"]
    if not places:  # one of several words of a name that alone means something else
        return True
    place = places[-1]
    if any(kind_of(key) == "attention" for key in keys) or _FUSED & set(words_of(keys[place])):
        return True
    beside = {
        other[place]
        for other in map(keys_of, paths)
        if other[:place] == keys[:place] and len(other) > place
    }
    words = {word for key in beside if kind_of(key) == "query" for word in words_of(key)}
    return bool(words & {"k", "key"} and words & {"q", "query", "v", "value"})

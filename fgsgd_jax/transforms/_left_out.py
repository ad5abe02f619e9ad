"""A warning of leaves on manifolds that `optax.masked` or `optax.partition` leaves out."""

import collections
import warnings
from typing import Any

import optax
from jax.tree_util import tree_flatten_with_path

from fgsgd_jax._trees import joined_path, leaves_with_paths, listed
from fgsgd_jax.spec import Collection

# By the fingerprint of a spec, the leaves that some optimizer on manifolds was given at `init`, and
# those that a warning has named. A partition calls `init` of all its parts before any `update`, so
# at the first update it is known which leaves no part keeps on their manifolds.
_known: collections.defaultdict[int, set[str]] = collections.defaultdict(set)


def note_given(params: Any, spec: Collection) -> None:
    """Notes at `init` that an optimizer on manifolds was given these leaves."""
    _known[spec.fingerprint].update(path for path, _ in leaves_with_paths(params))


def warn_of_left_out(params: Any, spec: Collection) -> None:
    """Warns once of leaves on manifolds that are masked here, and that no other optimizer got."""
    masked = [joined_path(keys) for keys, node in _nodes(params) if _is_masked(node)]
    if not masked:
        return
    known = _known[spec.fingerprint]
    left_out = [
        path for path, _ in spec.on_manifolds() if path not in known and _is_within(path, masked)
    ]
    if not left_out:
        return
    known.update(left_out)
    warnings.warn(
        f"The spec has {listed(left_out)} on manifolds, but optax.masked or optax.partition leaves "
        "them out of this optimizer, so whatever else updates them takes them off their manifolds, "
        "unless it is another optimizer on manifolds or keeps them fixed. Include them here, or "
        f"make them Euclidean by a rule: collection(params, ({left_out[0]!r}, None), …).",
        stacklevel=2,
    )


def _nodes(params: Any) -> list[tuple[Any, Any]]:
    return tree_flatten_with_path(params, is_leaf=_is_masked)[0]


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _is_within(path: str, masked: list[str]) -> bool:
    return any(part in ("", path) or path.startswith(part + "/") for part in masked)

"""Checks of the arguments of `collection`, each with one sentence that says what to do."""

import collections
import fnmatch
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from fgsgd_jax._text import did_you_mean
from fgsgd_jax._trees import leaves_with_paths, listed
from fgsgd_jax.spec._mistaken import require_tree_of_arrays
from fgsgd_jax.spec._request import Pom


def check_seed(seed: Any) -> None:
    """Raises unless a seed is one that Philox takes."""
    is_integer = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
    if not is_integer or not 0 <= seed < 2**64:
        raise ValueError(f"`seed` must be a non-negative integer below 2⁶⁴, got {seed!r}.")


def check_default(default: Any, presets: Collection[str]) -> None:
    """Raises unless `default` is a pom, None or "by shape"; the name of a preset is put right."""
    by_shape = isinstance(default, str) and default == "by shape"
    if not (by_shape or default is None or isinstance(default, Pom)):
        hint = did_you_mean(default, ["by shape"])
        if isinstance(default, str) and default in presets:
            hint = f" Did you mean preset={default!r}?"
        raise ValueError(f"`default` must be a pom, None or 'by shape', got {default!r}.{hint}")


def check_rule(rule: Any) -> None:
    """Raises unless a rule is a pair (glob, pom or None)."""
    if not (isinstance(rule, tuple) and len(rule) == 2 and isinstance(rule[0], str)):
        leaves = len(leaves_with_paths(rule))
        got = f"a tree of {leaves} leaves" if leaves > 2 else repr(rule)
        raise ValueError(
            "A rule is a pair (glob, pom), such as ('conv*/kernel', pom(…)), and stands after the "
            f"parameters; got {got}."
        )
    if rule[1] is not None and not isinstance(rule[1], Pom):
        raise ValueError(
            f"The rule for {rule[0]!r} needs a pom, such as pom('PO', Sphere()), or None for "
            f"Euclidean; got {rule[1]!r}."
        )


def checked_leaves(params: Any) -> list[tuple[str, Any]]:
    """The pairs (path, leaf) of the parameters: arrays, with one path each."""
    require_tree_of_arrays(params)
    leaves = leaves_with_paths(params)
    if not leaves:
        raise ValueError(
            "`params` has no leaves. Give collection the parameters to train, such as "
            "nnx.state(model, nnx.Param)."
        )
    for path, leaf in leaves:
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
            number = isinstance(leaf, (bool, int, float, complex))
            raise ValueError(
                f"{path!r} is {_shortened(leaf)}, which is not an array. "
                + (
                    f"Convert it with jnp.asarray({leaf!r}) or leave it out of the parameters."
                    if number
                    else "Leave it out of the parameters; those of an Equinox model are "
                    "eqx.filter(model, eqx.is_array)."
                )
            )
    counts = collections.Counter(path for path, _ in leaves)
    repeated = sorted(path for path, count in counts.items() if count > 1)
    if repeated:
        raise ValueError(
            f"More than one leaf has the path {listed(repeated)}, because a key contains '/'. "
            "Rename this key, so that every leaf has its own path."
        )
    return leaves


def _shortened(leaf: Any) -> str:
    """What a leaf looks like, in few words."""
    name = getattr(leaf, "__name__", None)
    return f"the function {name}" if callable(leaf) and name else repr(leaf)[:80]


def check_every_rule_decides(rules, paths: list[str]) -> None:
    """Raises unless every rule decides for at least one leaf."""
    undecided = list(paths)
    for glob, _ in rules:
        matched = fnmatch.filter(paths, glob)
        if not matched:
            braces = " A table folds repeated blocks into braces, as {0,1}: write * in their place."
            raise ValueError(
                f"The rule {glob!r} matches no leaf; the leaves are {listed(paths)}. A glob must "
                "match a whole path, and * also matches '/'." + (braces if "{" in glob else "")
            )
        remaining = [path for path in undecided if not fnmatch.fnmatchcase(path, glob)]
        if len(remaining) == len(undecided):
            raise ValueError(
                f"The rule {glob!r} has no effect, because earlier rules match all its leaves, "
                f"{listed(matched)}. Put it before them or remove it."
            )
        undecided = remaining


def checked_map_sizes(sizes: Mapping[str, int] | None, paths: list[str]) -> Mapping[str, int]:
    """The sizes of feature maps by path, which must be leaves."""
    if not (sizes is None or isinstance(sizes, Mapping)):
        raise ValueError(
            "`feature_map_sizes` maps paths of leaves to sizes, as fgsgd_jax.nnx.feature_map_sizes "
            f"returns it, such as {{'conv/kernel': 64}}; got {_shortened(sizes)}."
        )
    for path, size in (sizes or {}).items():
        if path not in paths:
            raise ValueError(
                f"feature_map_sizes has {path!r}, which is not a leaf of the parameters; the "
                f"leaves are {listed(paths)}. Correct the path or remove it."
            )
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
            raise ValueError(
                f"The feature map size of {path!r} must be an integer H·W of at least 1, got "
                f"{size!r}. fgsgd_jax.nnx.feature_map_sizes finds it."
            )
    return sizes or {}

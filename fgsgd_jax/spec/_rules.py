"""`collection`: from rules over paths to the spec of a whole tree.

Everything is decided from the paths, shapes and dtypes of the leaves, so a spec can be built from
`jax.ShapeDtypeStruct`s and printed before anything is computed.
"""

import collections
import dataclasses
import fnmatch
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from fgsgd_jax._trees import leaves_with_paths, listed
from fgsgd_jax.geometry import Oblique, Sphere, Stiefel
from fgsgd_jax.spec._collection import Collection
from fgsgd_jax.spec._components import resolve_component
from fgsgd_jax.spec._leaf import LeafSpec
from fgsgd_jax.spec._request import Pom, pom
from fgsgd_jax.spec._scales import checked_scale, gamma
from fgsgd_jax.spec._schemes import count_groups

# The best setting of the paper: three manifolds in every group, groups over both channel axes.
BY_SHAPE = pom("PIO", (Sphere(), Oblique(), Stiefel()))


def collection(
    params: Any,
    *rules: tuple[str, Pom | None],
    default: Pom | str | None = "by shape",
    scale: Any = None,
    feature_map_sizes: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Collection:
    """Decides for every leaf how it is cut and grouped, and on which manifolds it lives.

    Args:
        params: Any pytree of arrays or `jax.ShapeDtypeStruct`s.
        *rules: Pairs (glob, pom). The glob is matched, as by `fnmatch.fnmatchcase`, against the
            whole path of a leaf, its keys joined by `/` (`*` also matches `/`). The first rule that
            matches decides. None in place of a pom makes the leaf Euclidean.
        default: What applies to leaves that match no rule. None makes them Euclidean. A pom applies
            to all floating-point leaves with two or more axes. "by shape" puts convolution kernels
            of at least 2×2 on sphere, oblique and Stiefel manifolds under PIO and makes all other
            leaves Euclidean.
        scale: γ of the scale s = γ/λ, for poms without a `scale` of their own: None for weights at
            unit scale, "geometric" for γ = (fan-in + fan-out)^−½, a number, or an array. λ is 1
            until it is set by `set_feature_std`.
        feature_map_sizes: By path, the size H·W of a layer's output feature map, as
            `fgsgd_jax.nnx.feature_map_sizes` returns it. With it the fan-out in "geometric" is that
            of eq. (2), H·W times the number of output channels.
        seed: The seed of the random groups and of the random assignment of manifolds, from 0 to
            2⁶⁴ − 1.

    Returns:
        The spec, which all functions and transformations of this library take.

    Raises:
        ValueError: If a rule matches nothing or has no effect, or a leaf cannot be cut, grouped or
            placed as asked; the message names the path.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = {"conv": {"kernel": jnp.ones((3, 3, 8, 16))}, "head": {"bias": jnp.ones(10)}}
        >>> print(collection(params, ("conv/*", pom("PO", Sphere()))))
        1 of 2 leaves on manifolds, 99 % of the weights, 128 components: Sphere 128
        path         shape          component  manifolds    groups
        conv/kernel  (3, 3, 8, 16)  slice 3×3  Sphere: 128  PO: 16
        head/bias    (10,)                     Euclidean
    """
    _check_seed(seed)
    _check_default(default)
    for rule in rules:
        _check_rule(rule)
    default_scale = checked_scale(scale)
    leaves = _checked_leaves(params)
    paths = [path for path, _ in leaves]
    _check_every_rule_decides(rules, paths)
    map_sizes = _checked_map_sizes(feature_map_sizes, paths)

    def leaf_spec_of(path: str, leaf) -> LeafSpec | None:
        request = _request_for(path, leaf, rules, default)
        if request is None:
            return None
        if request.scale is None:
            request = dataclasses.replace(request, scale=default_scale)
        return _leaf_spec(path, leaf, request, map_sizes.get(path), int(seed))

    return Collection(
        layers=tuple((path, leaf_spec_of(path, leaf)) for path, leaf in leaves),
        shapes=tuple(tuple(leaf.shape) for _, leaf in leaves),
    )


def _request_for(path: str, leaf, rules, default: Pom | str | None) -> Pom | None:
    """What the first matching rule, or else the default, asks for a leaf; None for Euclidean."""
    for glob, request in rules:
        if fnmatch.fnmatchcase(path, glob):
            return request
    if not jnp.issubdtype(leaf.dtype, jnp.floating) or math.prod(leaf.shape) == 0:
        return None
    if isinstance(default, Pom):
        return default if len(leaf.shape) >= 2 else None
    # Kernels with one row or column cannot be on oblique and Stiefel manifolds.
    is_kernel = len(leaf.shape) == 4 and min(leaf.shape[:2]) > 1
    return BY_SHAPE if default == "by shape" and is_kernel else None


def _leaf_spec(path: str, leaf, request: Pom, map_size: int | None, seed: int) -> LeafSpec:
    """The leaf spec that a request gives for a leaf, or an error that names the path."""
    shape = tuple(leaf.shape)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise ValueError(
            f"{path!r} has dtype {leaf.dtype}, but a weight on manifolds needs a gradient, so "
            "its dtype must be real floating-point. Leave it Euclidean (None)."
        )
    if math.prod(shape) == 0:
        raise ValueError(
            f"{path!r} has shape {shape}, so there are no entries to put on a manifold. Leave it "
            "Euclidean (None)."
        )
    wants_matrix = any(manifold.wants_matrix for manifold in request.manifolds)
    try:
        component = resolve_component(request.component, shape, prefer_matrix=wants_matrix)
        groups = count_groups(request.scheme, request.groups, component, shape)
        scale = gamma(request.scale, component, shape, map_size)
    except ValueError as error:
        raise ValueError(f"{path!r} {error}.") from None
    for manifold in request.manifolds:
        objection = manifold.check_component(*component.points_shape(shape)[:2])
        if objection:
            raise ValueError(
                f"{path!r} has shape {shape} and is cut with component {component}: {objection}. "
                "Choose another component= or manifold, or leave it Euclidean (None)."
            )
    return LeafSpec(shape, component, request.scheme, groups, request.manifolds, seed, scale)


# --- checks of the arguments -----------------------------------------------------------------


def _check_seed(seed: Any) -> None:
    is_integer = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
    if not is_integer or not 0 <= seed < 2**64:
        raise ValueError(f"`seed` must be a non-negative integer below 2⁶⁴, got {seed!r}.")


def _check_default(default: Any) -> None:
    by_shape = isinstance(default, str) and default == "by shape"
    if not (by_shape or default is None or isinstance(default, Pom)):
        raise ValueError(f"`default` must be a pom, None or 'by shape', got {default!r}.")


def _check_rule(rule: Any) -> None:
    if not (isinstance(rule, tuple) and len(rule) == 2 and isinstance(rule[0], str)):
        raise ValueError(
            f"A rule is a pair (glob, pom), such as ('conv*/kernel', pom(…)); got {rule!r}."
        )
    if rule[1] is not None and not isinstance(rule[1], Pom):
        raise ValueError(
            f"The rule for {rule[0]!r} needs a pom, such as pom('PO', Sphere()), or None for "
            f"Euclidean; got {rule[1]!r}."
        )


def _checked_leaves(params: Any) -> list[tuple[str, Any]]:
    """The pairs (path, leaf) of the parameters: arrays, with one path each."""
    leaves = leaves_with_paths(params)
    if not leaves:
        raise ValueError(
            "`params` has no leaves. Give collection the parameters to train, such as "
            "nnx.state(model, nnx.Param)."
        )
    for path, leaf in leaves:
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
            raise ValueError(
                f"{path!r} is {leaf!r}, which is not an array. Convert it with "
                f"jnp.asarray({leaf!r}) or leave it out of the parameters."
            )
    counts = collections.Counter(path for path, _ in leaves)
    repeated = sorted(path for path, count in counts.items() if count > 1)
    if repeated:
        raise ValueError(
            f"More than one leaf has the path {listed(repeated)}, because a key contains '/'. "
            "Rename this key, so that every leaf has its own path."
        )
    return leaves


def _check_every_rule_decides(rules, paths: list[str]) -> None:
    undecided = list(paths)
    for glob, _ in rules:
        matched = fnmatch.filter(paths, glob) if glob else []
        if not matched:
            raise ValueError(
                f"The rule {glob!r} matches no leaf; the leaves are {listed(paths)}. A glob must "
                "match a whole path, and * also matches '/'."
            )
        remaining = [path for path in undecided if not fnmatch.fnmatchcase(path, glob)]
        if len(remaining) == len(undecided):
            raise ValueError(
                f"The rule {glob!r} has no effect, because earlier rules match all its leaves, "
                f"{listed(matched)}. Put it before them or remove it."
            )
        undecided = remaining


def _checked_map_sizes(sizes: Mapping[str, int] | None, paths: list[str]) -> Mapping[str, int]:
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

"""`collection`: from rules over paths and shapes to the spec of a whole tree.

The spec is data: for every leaf a `LeafSpec`, or None for a Euclidean one. It is decided once, from
paths and shapes alone, so it can be built from `ShapeDtypeStruct`s and printed before anything is
computed. This module is the only place that walks the trees of parameters and updates, and the
only place that knows what a path looks like.
"""

import collections
import dataclasses
import fnmatch
import functools
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fgsgd_jax._text import aligned
from fgsgd_jax._trees import leaves_with_paths, listed, map_with_path
from fgsgd_jax.geometry import Manifold, Oblique, Sphere, Stiefel
from fgsgd_jax.spec._components import (
    Component,
    ComponentName,
    check_component_name,
    resolve_component,
)
from fgsgd_jax.spec._leaf import LeafSpec
from fgsgd_jax.spec._scales import (
    Gamma,
    Numbers,
    ScaleRequest,
    checked_feature_std,
    gamma,
    requested,
)
from fgsgd_jax.spec._schemes import SCHEMES, Scheme, count_groups


@dataclasses.dataclass(frozen=True)
class Pom:
    """A request: how a weight is to be cut, grouped and placed. Made by `pom`."""

    scheme: Scheme
    manifolds: tuple[Manifold, ...]
    component: Component | ComponentName | None
    groups: int | None
    scale: ScaleRequest


def pom(
    scheme: Scheme,
    manifolds: tuple[Manifold, ...] | Manifold,
    *,
    component: Component | ComponentName | None = None,
    groups: int | None = None,
    scale: Any = None,
) -> Pom:
    """How a weight is cut into components, grouped, and placed on products of manifolds.

    Args:
        scheme: Who shares a group, and with it one step-size normalizer: `"PI"` (the components of
            one input channel), `"PO"` (of one output channel), `"PIO"` (random groups over both),
            `"layer"` (all), `"kernel"` (none: Submanifold SGD).
        manifolds: One manifold, or several that are dealt out at random inside every group.
        component: `"slice"` (A × B per input and output channel, the paper's), `"filter"` (a
            vector per output channel), `"matrix"` (the whole kernel), or a `Component` that names
            every axis. By default kernels larger than 1×1 fall into slices; 1×1 and dense kernels
            are one matrix where the manifolds are about columns, else a filter per output.
        groups: PIO only, the number of groups; by default that of the smaller channel axis.
        scale: γ of the scale s = γ/λ: "geometric", a number, or an array that spreads over the
            components, as `(inputs, outputs)` of slices; by default that of the collection.

    Returns:
        A request for `collection`, not tied to a weight.

    Raises:
        ValueError: If the scheme, a manifold, the cut or the number of groups makes no sense.

    Example:
        >>> from fgsgd_jax import Oblique, Sphere, Stiefel
        >>> pom("PIO", (Sphere(), Oblique(), Stiefel()), groups=64).groups
        64

    References:
        Ozay, 2019, section 2.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"A scheme is one of {', '.join(SCHEMES)}; {scheme!r} is none of them.")
    if isinstance(manifolds, Manifold):
        manifolds = (manifolds,)
    if not isinstance(manifolds, (tuple, list)) or not manifolds:
        raise ValueError(
            "A pom takes a manifold or a tuple of them, as in (Sphere(), Stiefel()), not "
            f"{manifolds!r}."
        )
    for manifold in manifolds:
        if not isinstance(manifold, Manifold):
            raise ValueError(
                f"{manifold!r} is not a manifold; give objects such as Sphere(), Oblique(), "
                "Stiefel() or Euclidean()."
            )
    check_component_name(component)
    if groups is not None:
        if scheme != "PIO":
            raise ValueError(
                f"Only PIO has a free number of groups; {scheme} has "
                f"{'one for the layer' if scheme == 'layer' else 'as many as its channels say'}, "
                f"so leave out groups={groups}."
            )
        if isinstance(groups, bool) or not isinstance(groups, (int, np.integer)) or groups < 1:
            raise ValueError(f"PIO needs a number of groups of at least 1, not {groups!r}.")
    groups = None if groups is None else int(groups)
    return Pom(scheme, tuple(manifolds), component, groups, requested(scale))


# The paper's best: three types in every group, groups drawn over both channel axes.
BY_SHAPE = pom("PIO", (Sphere(), Oblique(), Stiefel()))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Collection:
    """The spec of a tree of parameters: a `LeafSpec` or None (Euclidean) for every leaf, by path.

    Made by `collection`. `print` shows it as a table; `spec["conv/kernel"]` is the entry of a path.

    Attributes:
        layers: Pairs (path, `LeafSpec` or None), in the order of the tree.
        shapes: The shape of every leaf, in the same order.
    """

    layers: tuple[tuple[str, LeafSpec | None], ...]
    shapes: tuple[tuple[int, ...], ...]

    @functools.cached_property
    def _by_path(self) -> dict[str, LeafSpec | None]:
        return dict(self.layers)

    def __getitem__(self, path: str) -> LeafSpec | None:
        if path not in self._by_path:
            raise KeyError(f"no leaf {path!r}; the leaves are {listed(self._by_path)}")
        return self._by_path[path]

    def on_manifolds(self) -> Iterator[tuple[str, LeafSpec]]:
        """The pairs (path, layer) of all leaves that are not Euclidean."""
        return ((path, layer) for path, layer in self.layers if layer is not None)

    def __str__(self) -> str:
        header = ("path", "shape", "component", "manifolds", "groups", "scale")
        pairs = zip(self.layers, self.shapes, strict=True)
        rows = [header] + [_describe(path, shape, layer) for (path, layer), shape in pairs]
        if all(layer.gamma is None for _, layer in self.on_manifolds()):
            rows = [row[:-1] for row in rows]
        return "\n".join(aligned(rows))

    def __repr__(self) -> str:
        placed = sum(1 for _ in self.on_manifolds())
        return f"<Collection of {len(self.layers)} leaves, {placed} on manifolds>"

    # --- by leaf -------------------------------------------------------------------------------

    def leaf_spec_of(self, path: str, leaf) -> LeafSpec | None:
        """The entry of a leaf.

        Raises:
            ValueError: If the spec has no such leaf, or one of another shape.
        """
        if path not in self._by_path:
            raise ValueError(
                f"The collection has no leaf {path!r}; it was built from the leaves "
                f"{listed(self._by_path)}. Build it from the parameters it is used on."
            )
        layer = self._by_path[path]
        if layer is not None and tuple(leaf.shape) != layer.shape:
            raise ValueError(
                f"{path!r} has shape {tuple(leaf.shape)}, but the collection was built for shape "
                f"{layer.shape}. Build a new collection and a new optimizer state from the present "
                "parameters."
            )
        return layer

    def euclidean_mask(self, tree: Any) -> Any:
        """A tree like `tree` of bools, True at Euclidean leaves: an Optax mask."""
        return map_with_path(lambda path, leaf: self.leaf_spec_of(path, leaf) is None, tree)

    def labels(self, tree: Any) -> Any:
        """A tree like `tree` of labels for `optax.partition`: "manifold" or "euclidean"."""
        return jax.tree.map(
            lambda euclidean: "euclidean" if euclidean else "manifold", self.euclidean_mask(tree)
        )

    # --- what was drawn, as arrays for the state of a transformation -----------------------------

    def manifold_ids(self) -> dict[str, jax.Array]:
        """The drawn position of every component's manifold, for leaves of several types."""
        draws = ((path, layer.draw().manifold_ids) for path, layer in self.on_manifolds())
        return {
            path: jnp.asarray(manifold_ids)
            for path, manifold_ids in draws
            if manifold_ids is not None
        }

    def groups(self) -> dict[str, jax.Array]:
        """The drawn group of every component, for leaves under PIO."""
        draws = ((path, layer.draw().groups) for path, layer in self.on_manifolds())
        return {path: jnp.asarray(groups) for path, groups in draws if groups is not None}

    # --- what changes from epoch to epoch --------------------------------------------------------

    def feature_std(self, measured: Any = None) -> dict[str, jax.Array]:
        """λ by path, for all leaves that have a scale: as measured, or 1.

        Raises:
            ValueError: As `set_feature_std`.
        """
        channels = {
            path: layer.feature_channels
            for path, layer in self.on_manifolds()
            if layer.gamma is not None
        }
        ones = {path: jnp.ones(shape) for path, shape in channels.items()}
        return ones if measured is None else ones | checked_feature_stds(measured, channels)


def collection(
    params: Any,
    *rules: tuple[str, Pom | None],
    default: Pom | str | None = "by shape",
    scale: Any = None,
    feature_map_sizes: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Collection:
    """Decides for every leaf how it is cut, grouped, and on which manifolds it lives.

    Args:
        params: Any pytree of arrays or `jax.ShapeDtypeStruct`s.
        *rules: Pairs (glob, pom). The glob is matched, as by `fnmatch`, against the path of a leaf
            with its keys joined by `/` (`*` also matches `/`); the first rule that matches
            decides. None leaves the leaf Euclidean.
        default: What becomes of leaves without a rule: None leaves them Euclidean, a pom is given
            to all floating-point leaves of two or more axes, and "by shape" puts convolution
            kernels of at least 2×2 on spheres, oblique and Stiefel manifolds under PIO and leaves
            the rest Euclidean.
        scale: γ of the scale s = γ/λ of components, for poms that name none: None for weights at
            unit scale, "geometric" for γ = (fan-in + fan-out)^−½, or a number or array. λ is 1
            until `set_feature_std` tells it.
        feature_map_sizes: The size H·W of the map that a leaf's layer gives, by path, as
            `fgsgd_jax.nnx.feature_map_sizes` finds it; then the fan-out in "geometric" is that of
            eq. (2), H·W times the output channels.
        seed: Of the random groups and the random deal of types; non-negative.

    Returns:
        The spec that all functions and transformations of this library take.

    Raises:
        ValueError: If a rule matches nothing or never decides, or a leaf cannot be cut, grouped or
            placed as asked; the message names the path.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = {"conv": {"kernel": jnp.ones((3, 3, 8, 16))}, "head": {"bias": jnp.ones(10)}}
        >>> print(collection(params, ("conv/*", pom("PO", Sphere()))))
        path         shape          component  manifolds    groups
        conv/kernel  (3, 3, 8, 16)  slice 3×3  Sphere: 128  PO: 16
        head/bias    (10,)                     Euclidean
    """
    whole = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
    if not whole or not 0 <= seed < 2**64:
        raise ValueError(
            f"The seed of a collection is a non-negative integer below 2⁶⁴, not {seed!r}."
        )
    by_shape = isinstance(default, str) and default == "by shape"
    if not (by_shape or default is None or isinstance(default, Pom)):
        raise ValueError(f"The default is a pom, None or 'by shape', not {default!r}.")
    for rule in rules:
        _check_rule(rule)
    default_scale = requested(scale)
    leaves = leaves_with_paths(params)
    if not leaves:
        raise ValueError(
            "The tree given to collection has no leaves. Give it the parameters to train, such as "
            "nnx.state(model, nnx.Param)."
        )
    for path, leaf in leaves:
        _require_array(path, leaf)
    paths = [path for path, _ in leaves]
    twice = sorted(path for path, count in collections.Counter(paths).items() if count > 1)
    if twice:
        raise ValueError(
            f"Several leaves have the path {listed(twice)}, because a key contains '/'. "
            "Rename the key, so that rules can tell the leaves apart."
        )
    _check_use(rules, paths)
    map_sizes = _checked_map_sizes(feature_map_sizes, paths)

    def place(path: str, leaf, request: Pom) -> LeafSpec:
        if request.scale is None:
            request = dataclasses.replace(request, scale=default_scale)
        return _place(path, leaf, request, map_sizes.get(path), int(seed))

    def decide(path: str, leaf) -> LeafSpec | None:
        for glob, request in rules:
            if fnmatch.fnmatchcase(path, glob):
                return request and place(path, leaf, request)
        weighs = jnp.issubdtype(leaf.dtype, jnp.floating) and math.prod(leaf.shape) > 0
        if isinstance(default, Pom) and weighs and len(leaf.shape) >= 2:
            return place(path, leaf, default)
        # A kernel of one row or column has no place on oblique and Stiefel manifolds.
        is_kernel = weighs and len(leaf.shape) == 4 and min(leaf.shape[:2]) > 1
        if by_shape and is_kernel:
            return place(path, leaf, BY_SHAPE)
        return None

    return Collection(
        layers=tuple((path, decide(path, leaf)) for path, leaf in leaves),
        shapes=tuple(tuple(leaf.shape) for _, leaf in leaves),
    )


def _require_array(path: str, leaf: Any) -> None:
    if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
        raise ValueError(
            f"{path!r} holds {leaf!r}, which is no array. Give arrays, such as "
            f"jnp.asarray({leaf!r}), or leave it out of the parameters."
        )


def _check_rule(rule) -> None:
    if not (isinstance(rule, tuple) and len(rule) == 2 and isinstance(rule[0], str)):
        raise ValueError(
            f"A rule is a pair (glob, pom), as in ('conv*/kernel', pom(…)), not {rule!r}."
        )
    if rule[1] is not None and not isinstance(rule[1], Pom):
        raise ValueError(
            f"The rule for {rule[0]!r} needs a pom, as pom('PO', Sphere()), or None for Euclidean, "
            f"not {rule[1]!r}."
        )


def _check_use(rules, paths: list[str]) -> None:
    undecided = list(paths)
    for glob, _ in rules:
        matched = fnmatch.filter(paths, glob) if glob else []
        if not matched:
            raise ValueError(
                f"The rule {glob!r} matches no leaf; the leaves are {listed(paths)}. A glob "
                "must match a whole path, and * also matches '/'."
            )
        left = [path for path in undecided if not fnmatch.fnmatchcase(path, glob)]
        if len(left) == len(undecided):
            raise ValueError(
                f"The rule {glob!r} never decides, because earlier rules match all its leaves, "
                f"{listed(matched)}. Put it before them or remove it."
            )
        undecided = left


def _checked_map_sizes(sizes: Mapping[str, int] | None, paths: list[str]) -> Mapping[str, int]:
    for path, size in (sizes or {}).items():
        if path not in paths:
            raise ValueError(
                f"feature_map_sizes has {path!r}, which is no leaf of the parameters; they are "
                f"{listed(paths)}."
            )
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
            raise ValueError(
                f"The feature map size of {path!r} is a whole number H·W of at least 1, not "
                f"{size!r}."
            )
    return sizes or {}


def _place(path: str, leaf, request: Pom, map_size: int | None, seed: int) -> LeafSpec:
    """The layer of a leaf, or an error that names the leaf."""
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise ValueError(
            f"{path!r} holds {leaf.dtype}, which has no gradient here; manifolds need real "
            "floating-point weights. Leave it Euclidean (None)."
        )
    shape = tuple(leaf.shape)
    if math.prod(shape) == 0:
        raise ValueError(
            f"{path!r} has shape {shape}, so there is nothing in it to put on a manifold. Leave it "
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
                f"{path!r}, of shape {shape} and cut by {component}: {objection}. Choose another "
                "component= or manifold, or leave it Euclidean (None)."
            )
    return LeafSpec(shape, component, request.scheme, groups, request.manifolds, seed, scale)


def _describe(path: str, shape: tuple[int, ...], layer: LeafSpec | None) -> tuple[str, ...]:
    if layer is None:
        return (path, str(shape), "", "Euclidean", "", "")
    rows, columns = layer.points_shape[:2]
    placed = zip(layer.manifolds, layer.counts(), strict=True)
    manifolds = ", ".join(
        f"{str(manifold).removesuffix('()')}: {count}" for manifold, count in placed
    )
    groups = f"{layer.scheme}: {layer.groups}"
    if layer.stacked > 1:
        groups += f" in each of {layer.stacked}"
    cut = f"{layer.component} {rows}×{columns}"
    return (path, str(shape), cut, manifolds, groups, _spelled(layer.gamma))


def _spelled(gamma: Gamma) -> str:
    if isinstance(gamma, Numbers):
        return f"{gamma.array().min():.3g} to {gamma.array().max():.3g}"
    return "1" if gamma is None else f"{gamma:.3g}"


def require_collection(spec: Any) -> None:
    """Raises unless a spec is one, as where arguments were exchanged."""
    if not isinstance(spec, Collection):
        raise TypeError(
            "The spec is to be a collection, as fgsgd_jax.collection(params, …) makes it, but a "
            f"{type(spec).__name__} was given in its place."
        )


# --- the walk over the trees of a spec ------------------------------------------------------------


def map_leaves(
    spec: Collection, on_manifold: Callable, on_euclidean: Callable, tree: Any, *rest: Any
) -> Any:
    """Maps over the leaves of trees that belong to the parameters of a spec.

    The trees may spell paths differently and may lack leaves that `tree` lacks as well.

    Args:
        spec: The spec of the parameters.
        on_manifold: Called as `on_manifold(path, layer, leaf, *rest)` on manifolds.
        on_euclidean: Called as `on_euclidean(leaf, *rest)` on Euclidean leaves.
        tree: The tree whose structure the result takes.
        *rest: Further trees, or dictionaries from path to leaf.
    """
    others = [dict(leaves_with_paths(other)) for other in rest]

    def one(path, leaf):
        layer = spec.leaf_spec_of(path, leaf)
        if any(path not in other for other in others):
            raise ValueError(
                f"The updates have a leaf {path!r} that the parameters (or the state) lack. Give "
                "trees of the same parameters to init and update."
            )
        leaves = (leaf, *(other[path] for other in others))
        if layer is None:
            return on_euclidean(*leaves)
        for other in leaves[1:]:
            spec.leaf_spec_of(path, other)
        return on_manifold(path, layer, *leaves)

    return map_with_path(one, tree)


def _placed_like(value: jax.Array, weight) -> jax.Array:
    """The value on the devices of the weight, where those are several."""
    known = isinstance(weight, jax.Array) and not isinstance(weight, Tracer)
    if known and not isinstance(value, Tracer) and len(weight.devices()) > 1:
        return jax.device_put(value, weight.sharding)
    return value  # a copy to one device would commit it there


def checked_feature_stds(
    measured: Any,
    channels: Mapping[str, tuple[int, ...]],
    min_std: float | None = None,
    pooled: bool = False,
) -> dict[str, jax.Array]:
    """Measured λ by path, in the shapes that `LeafSpec.feature_channels` tells."""
    stds = dict(leaves_with_paths(measured))
    unknown = sorted(set(stds) - set(channels))
    if unknown and not channels:
        raise ValueError(
            f"Feature statistics were given for {listed(unknown)}, but the collection was built "
            "without a scale. Build it with collection(…, scale='geometric') or scale=1.0."
        )
    if unknown:
        raise ValueError(
            f"Feature statistics were given for {listed(unknown)}, but the leaves that have a "
            f"scale are {listed(channels)}. Measure those only: feature_std(…, spec=spec)."
        )
    return {
        path: checked_feature_std(path, given, channels[path], min_std, pooled)
        for path, given in stds.items()
    }


# --- whole trees ---------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=0)
def _residual_leaf(layer: LeafSpec, weight, manifold_ids, feature_std):
    return layer.residual(weight, manifold_ids, layer.scale(feature_std, weight.dtype))


def project(params: Any, spec: Collection, *, feature_std: Mapping[str, Any] | None = None) -> Any:
    """The parameters with every component moved to the nearest point of its manifold.

    Args:
        params: The tree the spec was built from. Euclidean leaves are returned as they are.
        spec: The collection.
        feature_std: λ by path, as `get_feature_std` reads it from an optimizer's state; 1 by
            default.

    Returns:
        A tree like `params`.

    Raises:
        ValueError: If a component has no nearest point (it is zero, say).

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"w": jnp.full((3, 3, 1, 1), 2.0)}
        >>> spec = collection(params, ("w", pom("layer", Sphere())))
        >>> (
        ...     float(residual(params, spec)["w"]),
        ...     bool(residual(project(params, spec), spec)["w"] < 1e-6),
        ... )
        (5.0, True)
    """
    require_collection(spec)
    manifold_ids, stds = spec.manifold_ids(), spec.feature_std(feature_std)

    def one(path, layer, weight):
        try:
            s = layer.scale(stds.get(path), weight.dtype)
            moved = layer.project(weight, manifold_ids.get(path), s)
        except ValueError as error:
            raise ValueError(f"{path!r}: {error}") from None
        return _placed_like(moved, weight)

    return map_leaves(spec, one, lambda weight: weight, params)


def initialize(key: jax.Array, params: Any, spec: Collection) -> Any:
    """The parameters with every component drawn uniformly from its manifold.

    Args:
        key: A PRNG key. A leaf draws from it and its own path, whatever else is in the tree.
        params: The tree the spec was built from. Euclidean leaves are returned as they are.
        spec: The collection.

    Returns:
        A tree like `params`.

    Raises:
        ValueError: If the spec was not built from these parameters.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = {"w": jnp.zeros((3, 3, 4, 8)), "bias": jnp.ones(8)}
        >>> spec = collection(params, ("w", pom("PO", Stiefel())))
        >>> drawn = initialize(jax.random.key(0), params, spec)
        >>> bool(residual(drawn, spec)["w"] < 1e-5), bool(jnp.all(drawn["bias"] == 1))
        (True, True)
    """
    require_collection(spec)
    manifold_ids = spec.manifold_ids()

    def one(path, layer, weight):
        own_key = jax.random.fold_in(key, zlib.crc32(path.encode()))
        s = layer.scale(None, weight.dtype)
        drawn = layer.random(own_key, weight.dtype, manifold_ids.get(path), s)
        return _placed_like(drawn, weight)

    return map_leaves(spec, one, lambda weight: weight, params)


def residual(
    params: Any, spec: Collection, *, feature_std: Mapping[str, Any] | None = None
) -> dict[str, jax.Array]:
    """How far each leaf is from its manifolds: the largest residual of its components.

    Args:
        params: The tree the spec was built from.
        spec: The collection.
        feature_std: λ by path, as `get_feature_std` reads it from an optimizer's state; 1 by
            default.

    Returns:
        A dictionary from path to a scalar, for all leaves on manifolds. It is |‖x‖ − 1| on spheres,
        the same for the worst column on oblique manifolds, ‖xᵀx − 1‖ on Stiefel, 0 on flat space;
        of the components at unit scale.

    Raises:
        ValueError: If the spec was not built from these parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"w": jnp.full((3, 3, 2, 4), 1 / 3), "bias": jnp.ones(4)}
        >>> spec = collection(params, ("w", pom("PO", Sphere())))
        >>> {path: bool(distance < 1e-6) for path, distance in residual(params, spec).items()}
        {'w': True}
    """
    require_collection(spec)
    manifold_ids, stds = spec.manifold_ids(), spec.feature_std(feature_std)
    return {
        path: _residual_leaf(layer, weight, manifold_ids.get(path), stds.get(path))
        for path, weight in leaves_with_paths(params)
        if (layer := spec.leaf_spec_of(path, weight)) is not None
    }

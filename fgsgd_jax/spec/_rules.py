"""`collection`: from rules over paths to the spec of a whole tree.

Everything is decided from the paths, shapes and dtypes of the leaves, so a spec can be built from
`jax.ShapeDtypeStruct`s and printed before anything is computed.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Mapping
from typing import Any

from fgsgd_jax.spec._arguments import (
    check_default,
    check_every_rule_decides,
    check_rule,
    check_seed,
    checked_leaves,
    checked_map_sizes,
)
from fgsgd_jax.spec._collection import Collection
from fgsgd_jax.spec._components import Component
from fgsgd_jax.spec._defaults import by_default, passed_over, without_geometry
from fgsgd_jax.spec._fitting_cuts import check_enough_components, fitting_cut
from fgsgd_jax.spec._kept_scales import kept_gamma
from fgsgd_jax.spec._layouts import DEFAULT, check_layout, letters_for
from fgsgd_jax.spec._leaf import LeafSpec
from fgsgd_jax.spec._named_cuts import resolve_component
from fgsgd_jax.spec._reasons import Reason
from fgsgd_jax.spec._request import Pom
from fgsgd_jax.spec._scales import Variance, checked_scale, gamma
from fgsgd_jax.spec._schemes import check_scheme, count_groups
from fgsgd_jax.spec.networks._attention import check_heads
from fgsgd_jax.spec.networks._biases import swapped_by_bias, what_counts_outputs
from fgsgd_jax.spec.networks._placements import PRESETS, InRules
from fgsgd_jax.spec.networks._presets import by_preset, checked_preset
from fgsgd_jax.spec.networks._stacked import own_layouts


def collection(
    params: Any,
    *rules: tuple[str, Pom | None],
    default: Pom | str | None = "by shape",
    preset: str | None = None,
    layout: str | None = None,
    scale: Any = None,
    feature_map_sizes: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Collection:
    """Decides for every leaf how it is cut and grouped, and on which manifolds it lives.

    Args:
        params: Any pytree of arrays or `jax.ShapeDtypeStruct`s.
        *rules: Pairs (glob, pom). The glob is matched, as by `fnmatch.fnmatchcase`, against the
            whole path of a leaf, its keys joined by `/` (`*` also matches `/`). The first rule that
            matches decides. None in place of a pom makes the leaf Euclidean. A rule with a pom
            passes over biases and normalization scales if it also matches other leaves.
        default: What applies to leaves that match no rule. None makes them Euclidean. A pom applies
            to floating-point leaves with two or more axes, except biases, normalization scales,
            embeddings, learned tokens, routers, and 3 or 5 axes that no layout names. "by shape"
            puts leaves that are convolutions by path and shape on sphere, oblique and Stiefel
            manifolds under PIO; all others are Euclidean.
        preset: "resnet", "transformer", "mlp" or "rnn": in place of a default, what suits the
            weights of such a network; `spec/README.md` has the table.
        layout: The axes of convolutions, one letter each: "HWIO" (Flax, Haiku), "OIHW" (Equinox,
            PyTorch), with S for stacked layers, as in "SHWIO". It covers fewer and more spatial
            axes and dense weights as well. A leaf that is one layer by path and number of axes,
            such as a stem, is read without S. By default HWIO, where paths and shapes leave no
            doubt.
        scale: γ of the scale s = γ/λ, for poms without a `scale` of their own and in place of the
            scales of a preset: None for weights at unit scale, "geometric" for γ = (fan-in +
            fan-out)^−½, "variance" to keep the variance of features through a layer and a ReLU,
            ("variance", gain) for other activations, "initial" for the norms that the components of
            `params` have now, a number, or an array. None leaves a preset its scales.
            λ is 1 until it is set by `set_feature_std`.
        feature_map_sizes: By path, the size H·W of a layer's output feature map, as
            `fgsgd_jax.nnx.feature_map_sizes` returns it. With it the fan-out in "geometric" is that
            of eq. (2), H·W times the number of output channels.
        seed: The seed of the random groups and of the random assignment of manifolds, from 0 to
            2⁶⁴ − 1.

    Returns:
        The spec, which all functions and transformations of this library take.

    Raises:
        ValueError: If a rule matches nothing or has no effect, a leaf cannot be cut, grouped or
            placed as asked, or a bias or the weights beside it speak against its layout; the
            message names the path.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fgsgd_jax import Sphere, pom
        >>> params = {"conv": {"kernel": jnp.ones((3, 3, 8, 16))}, "head": {"bias": jnp.ones(10)}}
        >>> print(collection(params, ("conv/*", pom("PO", Sphere()))))
        1 of 2 leaves on manifolds, 99 % of the weights, 128 components: Sphere 128
        path         shape          component  manifolds                        groups
        conv/kernel  (3, 3, 8, 16)  slice 3×3  Sphere: 128                      PO: 16
        head/bias    (10,)                     Euclidean (fewer than two axes)
    """
    check_seed(seed)
    check_default(default, PRESETS)
    checked_preset(preset, default)
    check_layout(layout)
    for rule in rules:
        check_rule(rule)
    default_scale = checked_scale(scale)
    leaves = checked_leaves(params)
    paths = [path for path, _ in leaves]
    check_every_rule_decides(rules, paths)
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves}
    map_sizes = checked_map_sizes(feature_map_sizes, paths)
    ruled = {path: _by_rule(path, leaf, rules, leaves) for path, leaf in leaves}
    layouts = own_layouts(leaves, layout, InRules(preset, scale is not None))
    sentence = ""
    if preset is None:
        requests: list[Pom | str] = [
            ruled[path]
            or by_default(
                path, leaf, default, layouts.own[path], shapes, stacks="S" in (layout or "")
            )
            for path, leaf in leaves
        ]
    else:
        requests, sentence = by_preset(preset, leaves, layouts, ruled)

    def placed(path: str, leaf, request: Pom | str) -> LeafSpec | None:
        if isinstance(request, str):
            return None
        of_preset = preset is not None and ruled[path] is None
        keeps_its_own = request.scale is not None and not (of_preset and default_scale is not None)
        scale = request.scale if keeps_its_own else default_scale
        if request.layout is None and not isinstance(request.component, Component):
            its_layout = layouts.checked(path, tuple(leaf.shape))
            _require_axes_of_one_layer(path, tuple(leaf.shape), layout, its_layout)
            rules = layouts.rules if of_preset else InRules()
            normalized = request.scale is None
            _require_agreement_with_bias(path, its_layout, shapes, rules, normalized=normalized)
            request = dataclasses.replace(request, layout=its_layout)
        request = dataclasses.replace(request, scale=scale)
        return _leaf_spec(path, leaf, request, shapes, map_sizes.get(path), int(seed))

    return Collection(
        layers=tuple(
            (path, placed(path, leaf, request))
            for (path, leaf), request in zip(leaves, requests, strict=True)
        ),
        shapes=tuple(shapes.values()),
        reasons=tuple(request if isinstance(request, str) else "" for request in requests),
        sentence=sentence,
    )


def _by_rule(path: str, leaf, rules, leaves) -> Pom | str | None:
    """What the first matching rule asks for a leaf, or why it is Euclidean; None without a rule.

    A rule that matches other leaves as well, `conv/*` say, passes over biases: nobody means them.
    """
    for glob, request in rules:
        if not fnmatch.fnmatchcase(path, glob):
            continue
        if request is None:
            return Reason.RULE
        why = passed_over(path, tuple(leaf.shape))
        if why and any(
            fnmatch.fnmatchcase(other, glob) and not passed_over(other, tuple(its.shape))
            for other, its in leaves
        ):
            return why
        return request
    return None


def _require_agreement_with_bias(
    path: str,
    layout: str | None,
    shapes: Mapping[str, tuple[int, ...]],
    rules: InRules,
    *,
    normalized: bool,
) -> None:
    """Raises if the bias of a weight says that its layout takes its outputs for its inputs.

    Args:
        path: The path of the weight.
        layout: Its layout, or None.
        shapes: The shapes of all leaves.
        rules: How rules are written.
        normalized: Whether a normalization layer keeps its features.
    """
    swapped = swapped_by_bias(path, layout, shapes)
    if swapped is not None:
        own = letters_for(layout or DEFAULT, len(shapes[path]))
        raise ValueError(
            f"{path!r} has shape {shapes[path]}, and {what_counts_outputs(path, shapes)} says that "
            f"the layout {own!r} takes its outputs for its inputs: write layout={swapped!r} in a "
            f"rule for it, such as ({path!r}, "
            f"{rules.pom_of_convolution(swapped, normalized=normalized)}), or in `collection` if "
            "it holds for all weights."
        )


def _require_axes_of_one_layer(
    path: str, shape: tuple[int, ...], layout: str | None, its_layout: str | None
) -> None:
    """Raises if a leaf that is one layer by its path has more axes than its layout without S."""
    if layout != its_layout and its_layout and letters_for(its_layout, len(shape)) is None:
        raise ValueError(
            f"{path!r} has shape {shape}, {len(shape)} axes. By its path it is one layer, not "
            f"stacked ones, for which layout={layout!r} means {its_layout!r}: write its own layout "
            "in the pom of a rule, such as layout='WIO' for a 1-D convolution."
        )


def _leaf_spec(
    path: str,
    leaf,
    request: Pom,
    shapes: Mapping[str, tuple[int, ...]],
    map_size: int | None,
    seed: int,
) -> LeafSpec:
    """The leaf spec that a request gives for a leaf, or an error that names the path."""
    shape = tuple(leaf.shape)
    unsuitable = without_geometry(leaf.dtype)
    if unsuitable:
        raise ValueError(
            f"{path!r} has {unsuitable}. A weight on manifolds is real floating-point, of 16 bits "
            "or more: convert it, or leave it Euclidean (None)."
        )
    if math.prod(shape) == 0:
        raise ValueError(
            f"{path!r} has shape {shape}, so there are no entries to put on a manifold. Leave it "
            "Euclidean (None)."
        )
    wants_matrix = any(manifold.wants_matrix for manifold in request.manifolds)
    try:
        component = resolve_component(
            request.component,
            shape,
            prefer_matrix=wants_matrix,
            layout=request.layout,
            path=path,
        )
        if isinstance(request.component, Component):
            check_scheme(request.scheme, component, shape)
            keeps_variance = isinstance(request.scale, Variance)
            check_heads(path, component, shapes, keeps_variance=keeps_variance)
        groups = count_groups(request.scheme, request.groups, component, shape)
        scale = gamma(request.scale, component, shape, map_size)
    except ValueError as error:
        raise ValueError(f"{path!r} {error}.") from None
    for manifold in request.manifolds:
        objection = manifold.check_component(*component.points_shape(shape)[:2])
        if objection:
            other = fitting_cut(path, shape, request, manifold)
            raise ValueError(
                f"{path!r} has shape {shape} and is cut with component {component}: {objection}. "
                f"Choose {other or 'another manifold'}, or leave it Euclidean (None)."
            )
    leaf_spec = LeafSpec(shape, component, request.scheme, groups, request.manifolds, seed, scale)
    check_enough_components(path, leaf_spec, request)
    try:
        kept = kept_gamma(request.scale, leaf_spec, leaf)
    except ValueError as error:
        raise ValueError(f"{path!r} {error}.") from None
    return dataclasses.replace(leaf_spec, gamma=kept)

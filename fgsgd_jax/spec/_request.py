"""`pom`: what a user asks for a weight, before its path and shape are known."""

import dataclasses
from typing import Any

import numpy as np

from fgsgd_jax._text import did_you_mean
from fgsgd_jax.geometry import Manifold
from fgsgd_jax.spec._components import Component
from fgsgd_jax.spec._layouts import check_layout
from fgsgd_jax.spec._named_cuts import ComponentName, check_component_name
from fgsgd_jax.spec._scales import ScaleRequest, checked_scale
from fgsgd_jax.spec._schemes import SCHEMES, Scheme

_MANIFOLDS = ("Sphere", "Oblique", "Stiefel", "Euclidean")


@dataclasses.dataclass(frozen=True)
class Pom:
    """How to cut, group and place a weight: what `pom` returns, and rules take.

    Attributes:
        scheme: Which components form a group.
        manifolds: The manifolds of the components, one or several.
        component: What is cut out of the weight; None for what suits its shape and manifolds.
        groups: The number of groups under PIO; None for the size of the smaller channel axis.
        scale: γ of the scale; None for that given to `collection`.
        layout: The axes of the weight; None for those given to `collection`.

    Example:
        >>> from fgsgd_jax import Sphere, pom
        >>> request = pom("PO", Sphere(), component="filter")
        >>> request.scheme, request.manifolds, request.component
        ('PO', (Sphere(),), 'filter')
    """

    scheme: Scheme
    manifolds: tuple[Manifold, ...]
    component: Component | ComponentName | None
    groups: int | None
    scale: ScaleRequest
    layout: str | None = None


def pom(
    scheme: Scheme,
    manifolds: tuple[Manifold, ...] | Manifold,
    *,
    component: Component | str | None = None,
    groups: int | None = None,
    scale: Any = None,
    layout: str | None = None,
) -> Pom:
    """A request: how to cut a weight, group its components, and on which manifolds to put them.

    Args:
        scheme: Which components form a group, and so share one step-size normalizer: `"PI"` (those
            of an input channel), `"PO"` (of an output channel), `"PIO"` (random groups over both
            channel axes), `"layer"` (all), `"kernel"` (each alone: Submanifold SGD).
        manifolds: One manifold, or several that are assigned at random within every group.
        component: `"slice"` (a matrix per input and output channel, as in the paper), `"filter"`
            (a vector per output channel), `"matrix"` (the whole kernel), `"row"` (a vector per row
            of an embedding), the axes as text with one word for each, such as
            `"in:rows heads:stack out:columns"`, or a `Component`. By default kernels larger than
            1×1 are cut into slices; 1×1 and dense kernels are one matrix on manifolds that
            constrain columns, and are cut into filters on all others.
        groups: The number of groups, for PIO only; by default the size of the smaller channel axis.
        scale: γ of the scale s = γ/λ: "geometric", "variance", ("variance", gain), "initial", a
            positive number, or an array that broadcasts against the components, such as
            `(inputs, outputs)` for slices. By default the `scale` given to `collection`.
        layout: The axes of the weight, one letter each, such as "HWIO" (Flax), "OIHW" (Equinox) or
            "SHWIO" (stacked layers). By default the `layout` given to `collection`.

    Returns:
        A request for `collection`, which can be used for any number of weights.

    Raises:
        ValueError: If an argument has none of the values above.

    Example:
        >>> from fgsgd_jax import Oblique, Sphere, Stiefel
        >>> pom("PIO", (Sphere(), Oblique(), Stiefel()), groups=64).groups
        64

    References:
        Ozay, 2019, section 2.
    """
    if not isinstance(scheme, str) or scheme not in SCHEMES:
        swapped = isinstance(manifolds, str) and manifolds in SCHEMES
        hint = (
            f" The scheme comes first: pom({manifolds!r}, {scheme!r})."
            if swapped
            else did_you_mean(scheme, SCHEMES)
        )
        raise ValueError(f"`scheme` must be one of {', '.join(SCHEMES)}; got {scheme!r}.{hint}")
    manifolds = _checked_manifolds(manifolds)
    component = check_component_name(component)
    check_layout(layout)
    groups = _checked_groups(groups, scheme)
    return Pom(scheme, manifolds, component, groups, checked_scale(scale), layout)


def _checked_manifolds(manifolds: Any) -> tuple[Manifold, ...]:
    if isinstance(manifolds, Manifold):
        return (manifolds,)
    if not isinstance(manifolds, (tuple, list)) or not manifolds:
        raise ValueError(
            "`manifolds` must be a manifold or a non-empty tuple of manifolds, such as "
            f"(Sphere(), Stiefel()); got {manifolds!r}." + _manifold_meant(manifolds)
        )
    for manifold in manifolds:
        if not isinstance(manifold, Manifold):
            raise ValueError(
                f"{manifold!r} is not a manifold; give instances such as Sphere(), Oblique(), "
                "Stiefel() or Euclidean()." + _manifold_meant(manifold)
            )
    return tuple(manifolds)


def _manifold_meant(given: Any) -> str:
    """The sentence " Did you mean …?" for a class, or the name of one; else empty."""
    return did_you_mean(getattr(given, "__name__", given), [f"{name}()" for name in _MANIFOLDS])


def _checked_groups(groups: Any, scheme: Scheme) -> int | None:
    if groups is None:
        return None
    if scheme != "PIO":
        raise ValueError(
            f"Only PIO takes a number of groups; under {scheme!r} the shape of the weight "
            f"determines it, so leave out groups={groups}."
        )
    if isinstance(groups, bool) or not isinstance(groups, (int, np.integer)) or groups < 1:
        raise ValueError(f"PIO needs `groups` to be an integer of at least 1, not {groups!r}.")
    return int(groups)

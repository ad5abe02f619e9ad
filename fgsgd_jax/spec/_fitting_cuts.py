"""Which cuts of a weight fit what is asked, for messages."""

import math
from collections.abc import Iterable, Iterator

from fgsgd_jax.geometry import Manifold
from fgsgd_jax.spec._components import Component
from fgsgd_jax.spec._leaf import LeafSpec
from fgsgd_jax.spec._named_cuts import check_component_name, resolve_component
from fgsgd_jax.spec._request import Pom


def fitting_cut(path: str, shape: tuple[int, ...], request: Pom, manifold: Manifold) -> str:
    """A cut with a name whose components the manifold takes; "" if none is known."""
    for name, found in _cuts(path, shape, request, ("matrix", "filter")):
        if manifold.check_component(*found.points_shape(shape)[:2]) is None:
            return f"component={name!r} or another manifold"
    return ""


def _cuts(
    path: str, shape: tuple[int, ...], request: Pom, names: Iterable[str]
) -> Iterator[tuple[str, Component]]:
    """Those of some cuts that a weight has."""
    for name in names:
        try:
            yield (
                name,
                resolve_component(
                    check_component_name(name),
                    shape,
                    prefer_matrix=True,
                    layout=request.layout,
                    path=path,
                ),
            )
        except ValueError:
            continue


def check_enough_components(path: str, leaf_spec: LeafSpec, request: Pom) -> None:
    """Raises if the weight has fewer components than manifolds, so that some are not used."""
    manifolds, count, shape = leaf_spec.manifolds, leaf_spec.components, leaf_spec.shape
    if len(set(manifolds)) <= count:
        return
    names: tuple[str, ...] = ("filter", "slice", "in:rows heads:stack out:columns")
    if isinstance(request.component, Component) and "heads" not in request.component.name:
        names = ()  # whoever names the axes knows what they are
    enough = [
        f", or component={name!r}, of which there are {math.prod(lanes)}"
        for name, found in _cuts(path, shape, request, names)
        for rows, columns, *lanes in [found.points_shape(shape)]
        if math.prod(lanes) >= len(set(manifolds))
        and not any(manifold.check_component(rows, columns) for manifold in manifolds)
    ]
    raise ValueError(
        f"{path!r} is cut with component {leaf_spec.component} into {count} "
        f"component{'s' * (count > 1)}, too few for {len(manifolds)} manifolds. Give one "
        f"manifold{(enough or [''])[0]}."
    )

"""`Collection`: the spec of a tree of parameters, a `LeafSpec` for every leaf on manifolds."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from fgsgd_jax._text import aligned
from fgsgd_jax._trees import listed, map_with_path
from fgsgd_jax.spec._feature_std import checked_feature_stds
from fgsgd_jax.spec._leaf import LeafSpec
from fgsgd_jax.spec._scales import Gamma, Numbers


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Collection:
    """The spec of a tree of parameters: for every leaf a `LeafSpec`, or None if it is Euclidean.

    Made by `collection`. It is static and hashable. `print(spec)` shows it as a table, and
    `spec["conv/kernel"]` is the leaf spec of a path.

    Attributes:
        layers: Pairs (path, leaf spec), in the order of the tree; None for a Euclidean leaf.
        shapes: The shape of every leaf, in the same order.
        reasons: Why a leaf is Euclidean, in the same order; "" where it is on manifolds. Two
            collections that differ in their reasons only are equal.
    """

    layers: tuple[tuple[str, LeafSpec | None], ...]
    shapes: tuple[tuple[int, ...], ...]
    reasons: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)

    @functools.cached_property
    def _by_path(self) -> dict[str, LeafSpec | None]:
        return dict(self.layers)

    def __getitem__(self, path: str) -> LeafSpec | None:
        if path not in self._by_path:
            raise KeyError(f"the spec has no leaf {path!r}; its leaves are {listed(self._by_path)}")
        return self._by_path[path]

    def on_manifolds(self) -> Iterator[tuple[str, LeafSpec]]:
        """The pairs (path, leaf spec) of all leaves that are not Euclidean."""
        return ((path, leaf_spec) for path, leaf_spec in self.layers if leaf_spec is not None)

    def __str__(self) -> str:
        header = ("path", "shape", "component", "manifolds", "groups", "scale")
        pairs = zip(self.layers, self.shapes, strict=True)
        rows = [header] + [_row(path, shape, leaf_spec) for (path, leaf_spec), shape in pairs]
        if all(leaf_spec.gamma is None for _, leaf_spec in self.on_manifolds()):
            rows = [row[:-1] for row in rows]
        return "\n".join(aligned(rows))

    def __repr__(self) -> str:
        count = sum(1 for _ in self.on_manifolds())
        return f"<Collection of {len(self.layers)} leaves, {count} on manifolds>"

    # --- one leaf ------------------------------------------------------------------------------

    def leaf_spec_of(self, path: str, leaf) -> LeafSpec | None:
        """The leaf spec of a leaf, after a check of its shape; None if it is Euclidean.

        Args:
            path: The path of the leaf.
            leaf: The leaf, or anything else with its shape.

        Raises:
            ValueError: If the spec has no leaf of this path, or one of another shape.
        """
        if path not in self._by_path:
            raise ValueError(
                f"The spec has no leaf {path!r}; it was built from the leaves "
                f"{listed(self._by_path)}. Build the spec from the parameters you use it with."
            )
        leaf_spec = self._by_path[path]
        if leaf_spec is not None and tuple(leaf.shape) != leaf_spec.shape:
            raise ValueError(
                f"{path!r} has shape {tuple(leaf.shape)}, but the spec was built for shape "
                f"{leaf_spec.shape}. Build a new spec with fgsgd_jax.collection(params, …) and a "
                "new optimizer state."
            )
        return leaf_spec

    # --- masks and labels for Optax ------------------------------------------------------------

    def euclidean_mask(self, tree: Any) -> Any:
        """A tree of bools with the structure of `tree`, True at Euclidean leaves: an Optax mask."""
        return map_with_path(lambda path, leaf: self.leaf_spec_of(path, leaf) is None, tree)

    def labels(self, tree: Any) -> Any:
        """A tree of labels, "manifold" or "euclidean", for `optax.partition`."""
        return jax.tree.map(
            lambda euclidean: "euclidean" if euclidean else "manifold", self.euclidean_mask(tree)
        )

    # --- arrays for the state of a transformation ----------------------------------------------

    def manifold_ids(self) -> dict[str, jax.Array]:
        """By path, the manifold id of every component; for leaves on several manifolds only."""
        draws = ((path, leaf_spec.draw().manifold_ids) for path, leaf_spec in self.on_manifolds())
        return {path: jnp.asarray(drawn) for path, drawn in draws if drawn is not None}

    def groups(self) -> dict[str, jax.Array]:
        """By path, the group of every component; for leaves under PIO only."""
        draws = ((path, leaf_spec.draw().groups) for path, leaf_spec in self.on_manifolds())
        return {path: jnp.asarray(drawn) for path, drawn in draws if drawn is not None}

    def feature_std(self, measured: Any = None) -> dict[str, jax.Array]:
        """By path, λ of every leaf that has a scale: as measured, or 1.

        Args:
            measured: Feature standard deviations by path, as `project` takes them.

        Raises:
            ValueError: As `set_feature_std`.
        """
        channels = {
            path: leaf_spec.feature_channels
            for path, leaf_spec in self.on_manifolds()
            if leaf_spec.gamma is not None
        }
        ones = {path: jnp.ones(shape) for path, shape in channels.items()}
        return ones if measured is None else ones | checked_feature_stds(measured, channels)


def require_collection(spec: Any) -> None:
    """Raises a TypeError unless `spec` is a `Collection`, as where arguments were swapped."""
    if not isinstance(spec, Collection):
        raise TypeError(
            "`spec` must be a Collection made by fgsgd_jax.collection(params, …), got "
            f"{type(spec).__name__}. Were the arguments swapped?"
        )


# --- the printed table -----------------------------------------------------------------------


def _row(path: str, shape: tuple[int, ...], leaf_spec: LeafSpec | None) -> tuple[str, ...]:
    if leaf_spec is None:
        return (path, str(shape), "", "Euclidean", "", "")
    rows, columns = leaf_spec.points_shape[:2]
    counts = zip(leaf_spec.manifolds, leaf_spec.counts(), strict=True)
    manifolds = ", ".join(
        f"{str(manifold).removesuffix('()')}: {count}" for manifold, count in counts
    )
    groups = f"{leaf_spec.scheme}: {leaf_spec.groups}"
    if leaf_spec.stacked > 1:
        groups += f" in each of {leaf_spec.stacked} stacked layers"
    component = f"{leaf_spec.component} {rows}×{columns}"
    return (path, str(shape), component, manifolds, groups, _gamma_text(leaf_spec.gamma))


def _gamma_text(gamma: Gamma) -> str:
    if isinstance(gamma, Numbers):
        return f"{gamma.array().min():.3g} to {gamma.array().max():.3g}"
    return "1" if gamma is None else f"{gamma:.3g}"

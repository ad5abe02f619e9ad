"""`Collection`: the spec of a tree of parameters, a `LeafSpec` for every leaf on manifolds."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from fgsgd_jax._trees import is_nnx_module, leaves_with_paths, listed, map_with_path
from fgsgd_jax.spec._feature_std import checked_feature_stds
from fgsgd_jax.spec._groups import Groups, drawn_groups
from fgsgd_jax.spec._leaf import LeafSpec
from fgsgd_jax.spec._mistaken import require_tree_of_arrays
from fgsgd_jax.spec._record import fingerprint_of, json_of
from fgsgd_jax.spec._table import Leaf, table_html, table_text


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Collection:
    """The spec of a tree of parameters: for every leaf a `LeafSpec`, or None if it is Euclidean.

    Made by `collection`. It is static and hashable. `print(spec)` shows it as a table, and
    `spec["conv/kernel"]` is the leaf spec of a path. It has the length, the membership test and the
    iteration of a dictionary over the paths of all leaves.

    Attributes:
        layers: Pairs (path, leaf spec), in the order of the tree; None for a Euclidean leaf.
        shapes: The shape of every leaf, in the same order.
        reasons: Why a leaf is Euclidean, in the same order, a `Reason` where code asks for it; ""
            where it is on manifolds.
        sentence: A sentence below the table on what may be wrong, or "". Two collections that
            differ in reasons and sentence only are equal.
    """

    layers: tuple[tuple[str, LeafSpec | None], ...]
    shapes: tuple[tuple[int, ...], ...]
    reasons: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)
    sentence: str = dataclasses.field(default="", compare=False, repr=False)

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

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[str]:
        return (path for path, _ in self.layers)

    def __contains__(self, path: object) -> bool:
        return path in self._by_path

    # --- for people, and for files ---------------------------------------------------------------

    def table(self, *, full: bool = False) -> str:
        """The spec as text: a summary line, and a table in the natural order of the paths.

        Leaves that differ in the numbers of their paths only share a row, such as
        `Block_{0..15}/Conv_{0,1}/kernel`. A row of Euclidean leaves may have several shapes; it
        shows the range of each axis. `print(spec)` prints this table.

        Args:
            full: Whether every leaf has its own row.

        Example:
            >>> import jax.numpy as jnp
            >>> import fgsgd_jax as fg
            >>> block = {"conv": {"kernel": jnp.ones((3, 3, 8, 8))}}
            >>> params = {"block_1": block, "block_2": block, "head": {"bias": jnp.ones(10)}}
            >>> spec = fg.collection(
            ...     params, ("*/conv/kernel", fg.pom("PO", fg.Sphere())), default=None
            ... )
            >>> print(spec.table().splitlines()[0])
            2 of 3 leaves on manifolds, 99 % of the weights, 128 components: Sphere 128
            >>> print(spec.table().splitlines()[2])
            block_{1,2}/conv/kernel  (3, 3, 8, 8)  slice 3×3  Sphere: 64                PO: 8
        """
        return table_text(self._leaves(), full, self.sentence)

    def to_json(self) -> str:
        """The spec as JSON, for files beside a run: every leaf with all that was decided for it.

        Example:
            >>> import json
            >>> import jax.numpy as jnp
            >>> import fgsgd_jax as fg
            >>> spec = fg.collection(
            ...     {"w": jnp.ones((3, 3, 8, 8))}, ("w", fg.pom("PO", fg.Sphere()))
            ... )
            >>> json.loads(spec.to_json())["leaves"][0]["manifolds"]
            ['Sphere()']
        """
        return json_of(self.fingerprint, self._leaves())

    @functools.cached_property
    def fingerprint(self) -> int:
        """A number of 32 bits over all that the drawn groups, the manifolds and γ depend on.

        The same in every process and version for the same paths, shapes, cuts, schemes, manifold
        classes, scales and seed of the leaves on manifolds. Retractions and λ, which may change
        during training, do not enter, nor does the γ of `scale="initial"`, which a spec that is
        built again measures from other values. Optimizer states carry it, see `SpecState`.
        """
        return fingerprint_of(self.on_manifolds())

    def _leaves(self) -> list[Leaf]:
        reasons = self.reasons or ("",) * len(self.layers)
        rows = zip(self.layers, self.shapes, reasons, strict=True)
        return [Leaf(path, shape, leaf_spec, reason) for (path, leaf_spec), shape, reason in rows]

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return table_html(self._leaves(), self.sentence)

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
        if not hasattr(leaf, "shape"):
            raise TypeError(
                f"{path!r} is {leaf!r:.80}, but the spec was built for arrays: give the "
                "parameters, or a tree of arrays with their structure."
            )
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
        if is_nnx_module(tree):
            require_parameters(tree, self)
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

    def drawn_groups(self) -> dict[str, Groups]:
        """By path, the drawn groups and their members; for leaves under PIO only."""
        drawn = ((path, drawn_groups(leaf_spec)) for path, leaf_spec in self.on_manifolds())
        return {path: groups for path, groups in drawn if groups is not None}

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


def require_parameters(tree: Any, spec: Collection) -> None:
    """Raises if something was given that is not the parameters of a spec.

    Raises:
        TypeError: If it is no tree of arrays, such as a training state.
        ValueError: If it is a Flax NNX module that holds more than its parameters.
    """
    if is_nnx_module(tree) and any(path not in spec for path, _ in leaves_with_paths(tree)):
        raise ValueError(
            f"The module {type(tree).__name__} holds variables that are not in the spec, such as "
            "batch statistics. Give its parameters, params = nnx.state(model, nnx.Param), and put "
            "new ones back with nnx.update(model, params)."
        )
    if not is_nnx_module(tree):
        require_tree_of_arrays(tree)

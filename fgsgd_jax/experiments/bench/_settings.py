"""What may be chosen about a measurement, and the optimizers that every section measures."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fgsgd_jax as fg
from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.experiments.bench import networks
from fgsgd_jax.experiments.config import Scheme

MOMENTUM = 0.9
RATE = 1e-3
DISTINCT = 512  # points, where their values do not matter but have to lie on manifolds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The choices, with their defaults. The help of the arguments explains each field."""

    networks: tuple[str, ...] = ("resnet18-3x3",)
    manifolds: tuple[tuple[str, ...], ...] = (
        ("sphere",),
        ("oblique",),
        ("stiefel",),
        ("sphere", "oblique", "stiefel"),
    )
    schemes: tuple[Scheme, ...] = ("PI", "PO", "PIO")
    momentum: str = "one"
    width: float = 1.0
    components: int = 10_000_000
    steps: int = 1000
    rounds: int = 11
    peer_python: Path | None = None
    figure: Path | None = None


def manifolds_named(names: tuple[str, ...]) -> tuple[fg.Manifold, ...]:
    """The manifolds of these names."""
    known = {
        "sphere": fg.Sphere,
        "oblique": fg.Oblique,
        "stiefel": fg.Stiefel,
        "euclidean": fg.Euclidean,
    }
    return tuple(known[name]() for name in names)


def placed(
    params: dict[str, jax.Array],
    scheme: Scheme,
    manifolds: tuple[str, ...],
    *,
    groups: int | None = None,
    seed: int = 0,
) -> tuple[fg.Collection, dict[str, jax.Array]]:
    """A spec with all kernels of a network on manifolds, and weights there."""
    request = fg.pom(scheme, manifolds_named(manifolds), groups=groups)
    rules = ((name, request if networks.is_kernel(name) else None) for name in params)
    spec = fg.collection(params, *rules, seed=seed)
    if not any(spec.on_manifolds()):
        raise ValueError(f"None of {', '.join(params)} is a kernel: nothing would be measured.")
    return spec, start_on(spec, params)


def start_on(spec: fg.Collection, params: Any) -> Any:
    """Weights such as these, on the manifolds of a spec.

    What `fg.initialize` does, without a program to compile for every shape of a weight.
    """
    leaves = [
        leaf if layer is None else _weight_on(layer)
        for layer, leaf in ((spec[path], leaf) for path, leaf in leaves_with_paths(params))
    ]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def _weight_on(layer: fg.LeafSpec) -> jax.Array:
    """A weight on its manifolds, made of a few points over and over."""
    rows, columns, *lanes = layer.points_shape
    count = math.prod(lanes)
    weight, manifold_ids = np.empty((rows, columns, count), np.float32), layer.draw().manifold_ids
    for position, manifold in enumerate(layer.manifolds):
        few = manifold.random(jax.random.key(0), (rows, columns, min(count, DISTINCT)))
        points = np.resize(np.moveaxis(np.asarray(few), -1, 0), (count, rows, columns))
        own = slice(None) if manifold_ids is None else manifold_ids.ravel() == position
        weight[:, :, own] = np.moveaxis(points[own], 0, -1)
    points = jnp.asarray(weight.reshape(layer.points_shape))
    return layer.component.from_points(points, layer.shape)


def normal(shapes: networks.Shapes, seed: int) -> dict[str, jax.Array]:
    """Small random weights, or gradients, of these shapes."""
    numbers = np.random.default_rng(seed)  # JAX would compile a program for each shape
    return {
        name: jnp.asarray(np.float32(0.01) * numbers.standard_normal(shape, np.float32))
        for name, shape in shapes.items()
    }


def update_of(tx: optax.GradientTransformation) -> Callable[..., tuple]:
    """A whole update as a function: (weights, state, gradient) → (weights, state)."""

    def update(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return update


def lanes_shape(components: int) -> tuple[int, int]:
    """Input and output channels of a kernel of about so many components."""
    side = max(1, round(components**0.5))
    return side, max(1, round(components / side))


def random_array(shape: tuple[int, ...], seed: int) -> jax.Array:
    """Standard normal numbers in float32."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))

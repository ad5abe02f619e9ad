"""Depth without normalization in convolutional networks: the study `depth` with 3×3 kernels.

Layers of equal width with tanh, no normalization and no skip connections. All methods start from
delta-orthogonal kernels, orthogonal in the middle and zero around it, which pass signals and
gradients through at their full length. On Stiefel manifolds the kernels keep orthonormal filters,
on spheres filters of norm 1, both times a scale; in free training they keep neither. Orthonormal
filters keep the length of features on average, not of each: the norm of such a convolution, as a
map of images, is between 1 and 3.

References:
    Xiao, Bahri, Sohl-Dickstein, Schoenholz & Pennington, *Dynamical isometry and a mean field
    theory of CNNs*, ICML 2018 (delta-orthogonal starts, up to 10,000 layers).
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fgsgd_jax as fg
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.study import depth_training
from fgsgd_jax.experiments.study.grid import Study
from fgsgd_jax.experiments.study.paper_images import shrunken
from fgsgd_jax.experiments.study.resnet import convolved

CHANNELS = 8
SIZE = 4  # rows and columns of all features
RATES = {
    "Stiefel, fgsgd": (3e-3, 0.01, 0.03, 0.1, 0.3, 1.0),
    "spheres, fgsgd": (3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1),
    "SGD": (3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1),
    "SGD, clipped": (3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1),
    "AdamW": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01),
}


def study(images: ImageData, *, smoke: bool) -> Study:
    """The study on these images; `smoke` makes it small enough for a test."""
    epochs, factor = 1 if smoke else 5, len(images.train_images[0]) // (2 * SIZE - 1)
    small = dataclasses.replace(
        images,
        train_images=shrunken(images.train_images, factor),
        test_images=shrunken(images.test_images, factor),
    )
    rows, columns = small.train_images.shape[1:3]
    return depth_training.study(
        NETWORK,
        small,
        name="depth-convolutional",
        layers=(10, 30, 100, 200),
        rates={method: RATES[method] for method in (NETWORK.poms if smoke else RATES)},
        epochs=epochs,
        tuning_seeds=1,
        description=f"averaged to {rows}×{columns} pixels; a 3×3 convolution of stride 2, then "
        f"layers of 3×3 convolutions of {CHANNELS} channels on {SIZE}×{SIZE} places with tanh, "
        f"without normalization, {epochs} epochs, all from delta-orthogonal kernels",
        smoke=smoke,
    )


def initial(key: jax.Array, image: tuple[int, ...], layers: int, classes: int) -> dict[str, Any]:
    """Delta-orthogonal kernels and zero biases; the hidden layers are stacked along the first axis.

    The first kernel and the last are orthogonal matrices.
    """
    keys = jax.random.split(key, 3)
    orthogonal = jax.nn.initializers.orthogonal()
    delta_orthogonal = jax.nn.initializers.delta_orthogonal()
    first, hidden = (3, 3, image[-1], CHANNELS), (3, 3, CHANNELS, CHANNELS)
    units = SIZE * SIZE * CHANNELS
    return {
        "first": {"kernel": orthogonal(keys[0], first), "bias": jnp.zeros(CHANNELS)},
        "hidden": {
            "kernel": jax.vmap(lambda key: delta_orthogonal(key, hidden))(
                jax.random.split(keys[1], layers)
            ),
            "bias": jnp.zeros((layers, CHANNELS)),
        },
        "head": {"kernel": orthogonal(keys[2], (units, classes)), "bias": jnp.zeros(classes)},
    }


def network(params: dict[str, Any], images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The outputs, and the features after every layer, `(layers, number, SIZE·SIZE, channels)`."""

    def layer(h, weights):
        h = jnp.tanh(convolved_small(h, weights["kernel"]) + weights["bias"])
        return h, h

    first = params["first"]
    h = jnp.tanh(convolved(images, first["kernel"], stride=2) + first["bias"])
    h, every = jax.lax.scan(layer, h.reshape(len(h), SIZE * SIZE, CHANNELS), params["hidden"])
    return h.reshape(len(h), -1) @ params["head"]["kernel"] + params["head"]["bias"], every


def convolved_small(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 3×3 convolution of features `(number, SIZE·SIZE, channels)`, with zeros around them.

    For features of so few places the matrix of the whole convolution is the fastest on a CPU.
    """
    matrix = jnp.einsum("tpq,tio->piqo", _NEIGHBORS, kernel.reshape(9, *kernel.shape[2:]))
    return jnp.einsum("npi,piqo->nqo", x, matrix)


# Whether place p is the neighbor t of place q, `(9, SIZE·SIZE, SIZE·SIZE)`.
_NEIGHBORS = np.stack(
    [
        np.kron(np.eye(SIZE, k=-row), np.eye(SIZE, k=-column))
        for row, column in itertools.product((-1, 0, 1), repeat=2)
    ]
).astype(np.float32)

NETWORK = depth_training.Network(
    initial,
    network,
    {
        "Stiefel, fgsgd": functools.partial(
            fg.pom, "layer", fg.Stiefel(), component="matrix", layout="SHWIO"
        ),
        "spheres, fgsgd": functools.partial(
            fg.pom, "PO", fg.Sphere(), component="filter", layout="SHWIO"
        ),
    },
)

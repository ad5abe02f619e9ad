"""Depth without normalization: how deep can a plain network be, and still be trained?

Dense layers of equal width with tanh, no normalization and no skip connections. All methods start
from orthogonal kernels, which pass signals and gradients through at their full length; on Stiefel
manifolds the kernels stay orthogonal, or orthogonal times a scale, in free training they do not.

References:
    Saxe, McClelland & Ganguli, ICLR 2014 (orthogonal starts). Xie, Xiong & Pu, CVPR 2017, and Qi et
    al. (ISONet), ICML 2020 (orthogonality kept).
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

import fgsgd_jax as fg
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.study import depth_training
from fgsgd_jax.experiments.study.grid import Study

WIDTH = 64
RATES = {
    "Stiefel, fgsgd": (3e-3, 0.01, 0.03, 0.1, 0.3, 1.0),
    "SGD": (3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1),
    "SGD, clipped": (3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1),
    "AdamW": (3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
}


def study(images: ImageData, *, smoke: bool) -> Study:
    """The study on these images; `smoke` makes it small enough for a test."""
    epochs = 1 if smoke else 8
    return depth_training.study(
        NETWORK,
        images,
        name="depth",
        layers=(10, 30, 100, 200),
        rates=RATES,
        epochs=epochs,
        tuning_seeds=2,
        description=f"layers of {WIDTH} tanh units without normalization, {epochs} epochs, all "
        "from orthogonal kernels",
        smoke=smoke,
    )


def initial(key: jax.Array, image: tuple[int, ...], layers: int, classes: int) -> dict[str, Any]:
    """Orthogonal kernels and zero biases; the hidden layers are stacked along the first axis."""
    keys = jax.random.split(key, 3)
    orthogonal = jax.nn.initializers.orthogonal()
    inputs = math.prod(image)
    return {
        "first": {"kernel": orthogonal(keys[0], (inputs, WIDTH)), "bias": jnp.zeros(WIDTH)},
        "hidden": {
            "kernel": jax.vmap(lambda key: orthogonal(key, (WIDTH, WIDTH)))(
                jax.random.split(keys[1], layers)
            ),
            "bias": jnp.zeros((layers, WIDTH)),
        },
        "head": {"kernel": orthogonal(keys[2], (WIDTH, classes)), "bias": jnp.zeros(classes)},
    }


def network(params: dict[str, Any], images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The outputs, and the hidden units after every layer, `(layers, number, width)`."""

    def layer(h, weights):
        h = jnp.tanh(h @ weights["kernel"] + weights["bias"])
        return h, h

    x = images.reshape(len(images), -1)
    h = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"])
    h, every = jax.lax.scan(layer, h, params["hidden"])
    return h @ params["head"]["kernel"] + params["head"]["bias"], every


NETWORK = depth_training.Network(
    initial,
    network,
    {
        "Stiefel, fgsgd": functools.partial(
            fg.pom, "layer", fg.Stiefel(), component="matrix", layout="SIO"
        )
    },
)

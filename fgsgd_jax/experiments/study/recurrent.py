"""Recurrent networks whose matrix is orthogonal, or starts so: their units, methods and settings.

The recurrent matrix is on a Stiefel manifold, or it starts orthogonal and is free. It has a
learning rate of its own; where the updates are the same (SGD, Adam), the rates tried are the same
on both sides. All other weights get the same Adam everywhere.

References:
    Helfrich, Willmott & Ye, *Orthogonal recurrent neural networks with scaled Cayley transform*,
    ICML 2018 (real matrices with this activation, and separate rates).
"""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

import fgsgd_jax as fg

UNITS = 64


def initial(key: jax.Array, inputs: int, outputs: int) -> dict[str, jax.Array]:
    """An orthogonal recurrent matrix, and normal weights of these numbers of inputs and outputs."""
    keys = jax.random.split(key, 3)
    glorot = jax.nn.initializers.glorot_normal()
    return {
        "recurrent": jax.nn.initializers.orthogonal()(keys[0], (UNITS, UNITS)),
        "input": glorot(keys[1], (inputs, UNITS)),
        "bias": jnp.zeros(UNITS),
        "output": glorot(keys[2], (UNITS, outputs)),
        "output_bias": jnp.zeros(outputs),
    }


def residual(params: dict[str, jax.Array]) -> jax.Array:
    """How far the recurrent matrix is from orthogonal, ‖WᵀW − 1‖ / √units."""
    w = params["recurrent"]
    return jnp.linalg.norm(w.T @ w - jnp.eye(UNITS)) / math.sqrt(UNITS)


def units(params: dict[str, jax.Array], inputs: jax.Array) -> jax.Array:
    """The units after every step, `(length, number, units)`, from what is added to them."""

    def step(h, from_input):
        z = h @ params["recurrent"] + from_input
        h = jnp.sign(z) * jax.nn.relu(jnp.abs(z) + params["bias"])  # modReLU
        return h, h

    return jax.lax.scan(step, jnp.zeros(inputs.shape[1:]), inputs)[1]


def methods() -> dict[str, list[dict[str, float]]]:
    """Five rates of the recurrent matrix and two of all others for each method."""

    def grid(rates: Sequence[float]) -> list[dict[str, float]]:
        pairs = itertools.product(rates, (1e-3, 3e-3))
        return [{"rate": rate, "others": others} for rate, others in pairs]

    of_gradients, of_adam = (3e-3, 0.01, 0.03, 0.1, 0.3), (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
    return {
        "Stiefel, fgsgd": grid(of_gradients),
        "Stiefel, rsgd": grid(of_gradients),
        "Stiefel, on_manifold(adam)": grid(of_adam),
        "free, clipped SGD": grid(of_gradients),
        "free, RMSprop": grid(of_adam),
        "free, Adam": grid(of_adam),
    }


def optimizer(method: str, params, rate, others) -> optax.GradientTransformation:
    """The optimizer of the recurrent matrix, and `others` for all other weights."""
    kind, _, name = method.partition(", ")
    if kind == "Stiefel":
        spec = fg.collection(params, ("recurrent", fg.pom("layer", fg.Stiefel())), default=None)
        if name == "on_manifold(adam)":
            return fg.on_manifold(optax.adam(rate), spec, euclidean=others)
        return {"fgsgd": fg.fgsgd, "rsgd": fg.rsgd}[name](rate, spec, euclidean=others)
    free = {
        "clipped SGD": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate)),
        "RMSprop": optax.rmsprop(rate, decay=0.99),
        "Adam": optax.adam(rate),
    }[name]
    labels = {name: "recurrent" if name == "recurrent" else "others" for name in params}
    return optax.partition({"recurrent": free, "others": others}, labels)

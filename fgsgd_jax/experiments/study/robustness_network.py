"""The network of the study of robustness, what is certified of it, and an attack.

References:
    Anil, Lucas & Grosse, *Sorting out Lipschitz function approximation*, ICML 2019. Tsuzuku, Sato &
    Sugiyama, *Lipschitz-margin training*, NeurIPS 2018. Madry et al., ICLR 2018 (the attack).
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

ATTACK_STEPS, POWER_ITERATIONS = 40, 20


def maxmin(x: jax.Array) -> jax.Array:
    """Sorts pairs of units: an activation that keeps the norm of every gradient."""
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([jnp.maximum(a, b), jnp.minimum(a, b)], axis=-1)


def network(params: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    """The outputs for inputs `(number, features)`."""
    *hidden, last = params
    for layer in hidden:
        x = maxmin(x @ layer["kernel"] + layer["bias"])
    return x @ last["kernel"] + last["bias"]


def initial(key: jax.Array, sizes: Sequence[int]) -> list[dict[str, jax.Array]]:
    """Orthogonal kernels and zero biases, the start of all methods."""
    orthogonal = jax.nn.initializers.orthogonal()
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"kernel": orthogonal(key, shape), "bias": jnp.zeros(shape[1])}
        for key, shape in zip(keys, itertools.pairwise(sizes), strict=True)
    ]


def spectral_norms(params: list[dict[str, jax.Array]]) -> list[jax.Array]:
    """The spectral norm of every kernel."""
    return [jnp.linalg.norm(layer["kernel"], 2) for layer in params]


def penalty_of(params: list[dict[str, jax.Array]]) -> jax.Array:
    """The sum of the squared spectral norms, by power iteration, whose gradient is cheap."""

    def squared(w: jax.Array) -> jax.Array:
        def iterate(_, v):
            v = w.T @ (w @ v)
            return v / jnp.linalg.norm(v)

        start = jnp.full(w.shape[1], w.shape[1] ** -0.5)
        v = jax.lax.fori_loop(0, POWER_ITERATIONS, iterate, start)
        return jnp.sum((w @ jax.lax.stop_gradient(v)) ** 2)

    return sum((squared(layer["kernel"]) for layer in params), jnp.zeros(()))


def certified_radius(params, x: jax.Array, labels: jax.Array) -> jax.Array:
    """The distance within which the answer is certainly right; at most 0 where it is wrong.

    The difference of outputs i and j changes by at most ‖w_i − w_j‖ times the product of the
    spectral norms of the hidden kernels, per unit of distance. A network whose numbers are not
    finite certifies nothing: its distances are 0.
    """
    outputs, last = network(params, x), params[-1]["kernel"]
    label = jax.nn.one_hot(labels, outputs.shape[-1], dtype=bool)
    margins = jnp.sum(outputs * label, -1, keepdims=True) - outputs
    slopes = jnp.linalg.norm(last[:, labels].T[:, :, None] - last[None], axis=1)
    slopes *= jnp.prod(jnp.stack(spectral_norms(params[:-1]) or [jnp.ones(())]))
    distances = jnp.where(label, jnp.inf, margins / slopes)
    # Tested apart, because XLA on CPUs may lose a NaN in a minimum.
    known = jnp.all(label | jnp.isfinite(distances), -1)
    return jnp.where(known, jnp.min(distances, -1), 0.0)


def attacked(params, x: jax.Array, labels: jax.Array, radius: float) -> jax.Array:
    """Whether the answer is still right after an attack of this Euclidean length."""

    def margin(moved):
        outputs = network(params, moved)
        label = jax.nn.one_hot(labels, outputs.shape[-1], dtype=bool)
        others = jnp.max(jnp.where(label, -jnp.inf, outputs), -1)
        return jnp.sum(outputs * label, -1) - others

    def step(_, carried):
        shift, smallest = carried
        gradient = jax.grad(lambda shift: margin(x + shift).sum())(shift)
        length = jnp.linalg.norm(gradient, axis=-1, keepdims=True)
        shift -= 2.5 * radius / ATTACK_STEPS * gradient / jnp.maximum(length, 1e-12)
        length = jnp.linalg.norm(shift, axis=-1, keepdims=True)
        shift *= jnp.minimum(1, radius / jnp.maximum(length, 1e-12))
        return shift, jnp.minimum(smallest, margin(x + shift))

    start = jnp.zeros_like(x), margin(x)
    _, smallest = jax.lax.fori_loop(0, ATTACK_STEPS, step, start)
    return smallest > 0

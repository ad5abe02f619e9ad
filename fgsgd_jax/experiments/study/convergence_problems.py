"""The small networks of the study `convergence`, their data, and how they are trained.

References:
    Du, Lee, Tian, Póczos & Singh, *Gradient descent learns one-hidden-layer CNN: don't be afraid of
    spurious local minima*, ICML 2018 (the convolution; a share of the starts must fail).
    Kawaguchi, *Deep learning without poor local minima*, NeurIPS 2016 (the linear network).
    Ozay, 2019, eq. (4) to (7) (the rates, and the normalizer).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fgsgd_jax as fg

SAMPLES, BATCH, NOISE = 200, 20, 0.1  # the last two where gradients are stochastic
RATES_FALL = 100  # steps until a rate under eq. (4) is half of the first
LEFT = 10  # times the loss at the start

Activation = Callable[[jax.Array], jax.Array]

NETWORKS: dict[str, tuple[tuple[int, ...], tuple[int, int], tuple[int, int], Activation, Any]] = {
    # The shape of an input, of both weights, the activation, and where the first weight is.
    "linear": ((10,), (10, 5), (5, 3), lambda x: x, fg.pom("layer", fg.Stiefel())),
    "leaky ReLU": (
        (10,),
        (10, 4),
        (4, 1),
        functools.partial(jax.nn.leaky_relu, negative_slope=0.2),
        fg.pom("layer", fg.Sphere(), component="filter"),
    ),
    # One filter over eight patches; the second weight is one number for each patch.
    "convolution": (
        (8, 6),
        (6, 1),
        (8, 1),
        jax.nn.relu,
        fg.pom("layer", fg.Sphere(), component="filter"),
    ),
}


def network(name: str, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """The outputs `(samples, outputs)`."""
    activation = NETWORKS[name][3]
    hidden = activation(x @ params["first"])
    if name == "convolution":
        hidden = hidden[..., 0]
    return hidden @ params["second"]


def initial(key: jax.Array, name: str) -> tuple[dict[str, jax.Array], fg.Collection]:
    """Normal weights, the first projected on its manifold, and their spec."""
    keys = jax.random.split(key)
    _, first, second, _, pom = NETWORKS[name]
    params = {
        "first": jax.random.normal(keys[0], first),
        "second": jax.random.normal(keys[1], second) / second[0] ** 0.5,
    }
    spec = fg.collection(params, ("first", pom), default=None)
    return fg.project(params, spec), spec


# --- training ---------------------------------------------------------------------------------


def optimizer(method: str, spec: fg.Collection, rate) -> optax.GradientTransformation:
    """The optimizer of both weights; the second one takes plain steps at the same rate."""
    name, _, change = method.partition(", ")
    if change == "eq. (4)":
        rate = fg.robbins_monro(rate, RATES_FALL)
    if name == "SGD":
        return optax.sgd(rate)
    if name == "rsgd":
        return fg.rsgd(rate, spec, euclidean="sgd")
    rho: Any = {
        "ρ = π√n": fg.per_group(lambda group: math.pi * math.sqrt(group.components)),
        "ρ travelled": "travelled",
    }.get(change, 1.0)
    return fg.fgsgd(rate, spec, rho=rho, euclidean="sgd")


class Course(NamedTuple):
    """How a training went.

    Attributes:
        loss: The loss on all samples after the last step.
        left: Whether the loss of a step was ever `LEFT` times that of the start, or not finite.
        gradients: The norm of the Riemannian gradient on all samples, after every stage.
    """

    loss: jax.Array
    left: jax.Array
    gradients: jax.Array


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def courses(name: str, batches: bool, method: str, stages: tuple[int, int], keys, rate) -> Course:
    """The trainings of one network from each key, `stages` = (number, steps of each)."""
    return jax.vmap(lambda key: _course(name, batches, method, stages, key, rate))(keys)


def _course(name: str, batches: bool, method: str, stages: tuple[int, int], key, rate) -> Course:
    keys = jax.random.split(key, 5)
    x = jax.random.normal(keys[0], (SAMPLES, *NETWORKS[name][0]))
    teacher, _ = initial(keys[1], name)
    params, spec = initial(keys[2], name)
    targets = network(name, teacher, x)
    if batches:
        targets += NOISE * jax.random.normal(keys[3], targets.shape)
    tx = optimizer(method, spec, rate)

    def loss_of(params, x, targets):
        return jnp.mean((network(name, params, x) - targets) ** 2) / 2

    first = loss_of(params, x, targets)

    def step(carried, key):
        params, state, largest = carried
        chosen = jax.random.choice(key, SAMPLES, (BATCH,)) if batches else jnp.arange(SAMPLES)
        loss, gradient = jax.value_and_grad(loss_of)(params, x[chosen], targets[chosen])
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state, jnp.fmax(largest, loss)), None

    def stage(carried, keys):
        carried, _ = jax.lax.scan(step, carried, keys)
        gradient = jax.grad(loss_of)(carried[0], x, targets)
        return carried, optax.tree.norm(_riemannian(spec, carried[0], gradient))

    end: Any
    steps = jax.random.split(keys[4], stages)
    end, gradients = jax.lax.scan(stage, (params, tx.init(params), first), steps)
    loss = loss_of(end[0], x, targets)
    return Course(loss, ~((end[2] < LEFT * first) & jnp.isfinite(loss)), gradients)


def _riemannian(spec: fg.Collection, params, gradient):
    """The tangent part of a gradient at the nearest weights on the manifolds."""
    link = fg.project_to_tangent(spec)
    params = fg.project(params, spec)
    return link.update(gradient, link.init(params), params)[0]

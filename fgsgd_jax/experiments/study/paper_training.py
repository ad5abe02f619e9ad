"""Training for the study `paper`: many runs at once, on one device that holds all images.

The gradient is one program for all methods, and each method adds a small program for its update, so
that little is compiled. Learning rates and decays are arguments of these programs.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.study.config import Paper
from fgsgd_jax.experiments.study.paper_images import Data, augmented
from fgsgd_jax.experiments.study.paper_methods import METHODS, optimizer
from fgsgd_jax.experiments.study.resnet import gradients, initial, mapped, network

EVALUATION_BATCH, MOMENTS_FROM = 500, 5000  # images


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """The numbers of every run `(runs,)`, and for how many steps all are trained."""

    rates: Any
    decays: Any
    steps: Any


jax.tree_util.register_dataclass(Hyperparameters)


class Training:
    """The training of networks, with its programs.

    Args:
        images: The images.
        settings: What is trained, and how it is computed.
    """

    def __init__(self, images: ImageData, settings: Paper):
        self.data, self.settings = Data(images, settings.shrink), settings
        self.steps_per_epoch = len(self.data.training[1]) // settings.batch_size

    def run(self, method: str, seeds, rates, decays, epochs: int) -> dict[str, np.ndarray]:
        """Trains as many networks as there are seeds, and measures them.

        Args:
            method: One of `METHODS`.
            seeds: The seeds `(runs,)`: of the initial weights and the order of the images.
            rates: The learning rates `(runs,)`.
            decays: The weight decays or penalties `(runs,)`, of SGD only.
            epochs: How often all images are used.

        Returns:
            By name, the errors on validation and test images `(runs,)`, and the seconds that one
            run took, if the time is divided among the runs.
        """
        programs = self.programs
        keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
        given = Hyperparameters(
            jnp.asarray(rates, jnp.float32),
            jnp.asarray(decays, jnp.float32),
            jnp.asarray(epochs * self.steps_per_epoch, jnp.int32),
        )
        start = time.perf_counter()
        params, state = programs["start", method](programs["initial"](keys), given)
        step = jnp.zeros((), jnp.int32)
        for _ in range(epochs):
            orders = programs["orders"](keys, step)
            for _ in range(self.steps_per_epoch):
                step, gradient = programs["gradient"](
                    params, keys, orders, step, self.data.training
                )
                params, state = programs["update", method](params, state, gradient, given)
            step.block_until_ready()  # else the queue of the device would grow
        measured = programs["measure"](
            params, self.data.training, self.data.validation, self.data.test
        )
        results = jax.device_get(measured)
        seconds = (time.perf_counter() - start) / len(keys)
        return results | {"seconds": np.full(len(keys), seconds)}

    @functools.cached_property
    def programs(self) -> dict[Any, Callable[..., Any]]:
        """All programs by name, compiled at the same time in several threads."""
        lowered = self.lowered(self.settings.methods)
        with ThreadPoolExecutor() as threads:
            compiled = threads.map(lambda program: program.compile(), lowered.values())
            return dict(zip(lowered, compiled, strict=True))

    def lowered(self, methods: Sequence[str]) -> dict[Any, Any]:
        """The programs of these methods by name, not yet compiled."""
        runs = self.settings.together
        number = jax.ShapeDtypeStruct((runs,), jnp.float32)
        count = jax.ShapeDtypeStruct((), jnp.int32)
        given = Hyperparameters(number, number, count)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), runs))
        images = self.data.training, self.data.validation, self.data.test
        orders, start = jax.jit(self.orders), jax.jit(self.initial)
        order, params = jax.eval_shape(orders, keys, count), jax.eval_shape(start, keys)
        gradient, measure = jax.jit(self.gradient), jax.jit(self.measure)
        programs: dict[Any, Any] = {
            "orders": orders.lower(keys, count),
            "initial": start.lower(keys),
            "gradient": gradient.lower(params, keys, order, count, images[0]),
            "measure": measure.lower(params, *images),
        }
        for method in methods:
            start = jax.jit(functools.partial(self.start, method))
            _, state = jax.eval_shape(start, params, given)
            programs["start", method] = start.lower(params, given)
            update = jax.jit(functools.partial(self.update, method), donate_argnums=(0, 1))
            programs["update", method] = update.lower(params, state, params, given)
        return programs

    # --- the programs; all arguments with an axis of runs have it first -------------------------

    def initial(self, keys: jax.Array) -> Any:
        """The parameters of all methods before they are projected."""
        of_run = functools.partial(
            initial,
            inputs=self.data.channels,
            classes=self.data.classes,
            depth=self.settings.depth,
            width=self.settings.width,
        )
        return jax.vmap(of_run)(keys)

    def start(self, method: str, params: Any, given: Hyperparameters) -> tuple[Any, Any]:
        """The parameters and the states of the optimizer before the first step."""

        def of_run(params, rate, decay):
            params = METHODS[method].projected(params)
            tx = self._optimizer(method, params, given.steps, rate, decay)
            return params, tx.init(params)

        return jax.vmap(of_run)(params, given.rates, given.decays)

    def update(self, method: str, params, state, gradient, given: Hyperparameters):
        """The parameters and the states after a step."""

        def of_run(params, state, gradient, rate, decay):
            tx = self._optimizer(method, params, given.steps, rate, decay)
            updates, state = tx.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        return jax.vmap(of_run)(params, state, gradient, given.rates, given.decays)

    def orders(self, keys: jax.Array, step: jax.Array) -> jax.Array:
        """The order of the training images in the epoch that begins with this step."""
        number = len(self.data.training[1])
        return jax.vmap(lambda key: jax.random.permutation(_key(key, step, 1), number))(keys)

    def gradient(self, params, keys, orders, step, training):
        """The number of the next step, and the gradients of this one."""
        size, (pixels, labels) = self.settings.batch_size, training
        first = step % self.steps_per_epoch * size
        batches = jax.lax.dynamic_slice_in_dim(orders, first, size, axis=1)
        scaled = self._scaled(pixels[batches])
        if self.data.shift is not None:
            shifted = functools.partial(augmented, shift=self.data.shift)
            scaled = jax.vmap(shifted)(jax.vmap(lambda key: _key(key, step, 2))(keys), scaled)
        of_runs = gradients(self._loss, self.settings.convolution)
        _, gradient = of_runs(params, scaled, labels[batches])
        return step + 1, gradient

    def measure(self, params, training, validation, test) -> dict[str, jax.Array]:
        """The errors of networks whose features are normalized by those of training images."""
        network_of = functools.partial(network, convolution=self.settings.convolution)

        def of_run(params, pixels, *held_out):
            size = min(EVALUATION_BATCH, len(pixels))
            batches = _batches(pixels[: min(MOMENTS_FROM, len(pixels)) // size * size])
            moments = jax.lax.map(lambda x: network_of(params, self._scaled(x))[1], batches)
            moments = jax.tree.map(lambda moment: moment.mean(0), moments)

            def error(pixels, labels):
                def right(batch):
                    logits, _ = network_of(params, self._scaled(batch), moments=moments)
                    return logits.argmax(-1)

                answers = jax.lax.map(right, _batches(pixels)).reshape(-1)
                return jnp.mean(answers[: len(labels)] != labels)

            return {
                "validation_error": error(*held_out[0]),
                "test_error": error(*held_out[1]),
            }

        of_runs = mapped(of_run, self.settings.convolution, (0, None, None, None))
        return of_runs(params, training[0], validation, test)

    # --- what they share ------------------------------------------------------------------------

    def _scaled(self, pixels: jax.Array) -> jax.Array:
        return ((pixels - self.data.mean) / self.data.deviation).astype(self.settings.features)

    def _loss(self, params, images, labels) -> jax.Array:
        logits, _ = network(params, images, self.settings.convolution)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def _optimizer(self, method: str, params, steps, rate, decay) -> optax.GradientTransformation:
        return optimizer(METHODS[method], params, self._schedule(steps), rate, decay)

    def _schedule(self, steps: jax.Array) -> optax.Schedule:
        """What rates are multiplied by, from 1 down."""
        if self.settings.schedule == "cosine":
            return lambda count: (1 + jnp.cos(jnp.pi * count / steps)) / 2
        return lambda count: 0.1 ** ((2 * count >= steps) + 1.0 * (4 * count >= 3 * steps))


def _key(key: jax.Array, step: jax.Array, use: int) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(key, use), step)


def _batches(pixels: jax.Array) -> jax.Array:
    """Images in batches for `lax.map`; the last is filled up with zeros."""
    size = min(EVALUATION_BATCH, len(pixels))
    filled = jnp.pad(pixels, ((0, -len(pixels) % size), (0, 0), (0, 0), (0, 0)))
    return filled.reshape(-1, size, *pixels.shape[1:])

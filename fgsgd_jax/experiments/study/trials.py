"""Trials of the network of `train`, which compiles once for all trials of a configuration.

Learning rate, seed and scale are values in the state before the first step. Half of the training
images are held out for validation; the test images are evaluated once, at the end of a trial.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import fgsgd_jax as fg
from fgsgd_jax.experiments import data
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.train import setup, steps
from fgsgd_jax.experiments.train.config import Config
from fgsgd_jax.experiments.train.steps import TrainState

RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # on manifolds of norm 1
ERRORS = {"test_error": "test error, %", "validation_error": "validation error, %"}


def configuration(images: ImageData, *, smoke: bool, **settings: Any) -> Config:
    """What the trials of a study share; `smoke` makes them small enough for a test."""
    channels, epochs = ((3,), 2) if smoke else ((16, 32, 32), 16)
    return Config(
        data=images.name,  # pyright: ignore[reportArgumentType]
        channels=channels,
        scheme="PO",
        manifolds=("sphere",),
        epochs=epochs,
        **settings,
    )


def description(settings: Config, images: ImageData) -> str:
    """What is trained on which images, for the caption of a table."""
    training, held_out = halves(images)
    return (
        f"{images.name}: {len(training.train_labels)} training, {len(held_out.train_labels)} "
        f"validation and {len(images.test_labels)} test images; 3×3 convolutions of "
        f"{settings.channels} channels with batch normalization, their slices on spheres in groups "
        f"{settings.scheme}, all other weights with a rate of "
        f"{settings.euclidean_learning_rate:g}; {settings.epochs} epochs, momentum "
        f"{settings.momentum:g}"
    )


def halves(images: ImageData) -> tuple[ImageData, ImageData]:
    """The data with one half of the training images and with the other, each class in both."""
    order = data.stratified_order(images.train_labels)
    middle = len(order) // 2

    def of(index: np.ndarray) -> ImageData:
        pixels, labels = images.train_images[index], images.train_labels[index]
        return dataclasses.replace(images, train_images=pixels, train_labels=labels)

    return of(np.sort(order[:middle])), of(np.sort(order[middle:]))


class Trials:
    """The trials of one configuration.

    Args:
        settings: The configuration. Its seed decides the random groups and manifolds of all trials.
        images: All images.
        **changes: Fields in which the configuration differs from `settings`.
    """

    def __init__(self, settings: Config, images: ImageData, **changes: Any):
        self.settings = settings = dataclasses.replace(settings, **changes)
        self.images, self.held_out = halves(images)
        self.training = setup.prepare(settings, self.images, _with_injected_rate)
        # Plain SGD has a spec too, for the bounds of its groups.
        self.spec = self.training.spec or setup.spec_of(
            settings, setup.network(settings, self.images, settings.seed), self.images
        )

    def run(self, learning_rate: float, seed: int, scale: float = 1.0) -> tuple[Row, TrainState]:
        """Trains once.

        Args:
            learning_rate: The initial learning rate.
            seed: The seed of the weights and of the order of the images.
            scale: Multiplies the scale of the configuration.

        Returns:
            The training loss of the last epoch, validation and test error, which are NaN if the
            loss is no longer finite; and the last state.
        """
        state, loss = self._start(learning_rate, seed, scale), math.nan
        for epoch in range(1, self.settings.epochs + 1):
            losses = []
            for batch in data.batches(self.images, self.settings.batch_size, seed, epoch):
                state, batch_loss, *_ = self.training.step(state, *batch)
                losses.append(batch_loss)
            loss = float(jnp.mean(jnp.stack(losses)))
            if not math.isfinite(loss):
                return dict.fromkeys(("train_loss", "validation_error", "test_error"), loss), state
            state = self.training.rescale(state, epoch)
        return {
            "train_loss": loss,
            "validation_error": self._error(
                state, self.held_out.train_images, self.held_out.train_labels
            ),
            "test_error": self._error(state, self.images.test_images, self.images.test_labels),
        }, state

    def _error(self, state: TrainState, images: np.ndarray, labels: np.ndarray) -> float:
        return steps.loss_and_error(self.training.outputs(state, images), labels)[1]

    def _start(self, learning_rate: float, seed: int, scale: float) -> TrainState:
        """The state before the first step of a trial."""
        model = setup.network(self.settings, self.images, seed)
        _, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
        # Arrays of a certain dtype, as the step returns them: with others it would compile twice.
        changes: dict[str, Any] = {"first_rate": jnp.float32(learning_rate)}
        spec = self.training.spec
        if spec is not None:
            # The optimizer sees a multiple of the scale as a λ that the weights already have.
            stds = spec.feature_std({path: jnp.float32(1 / scale) for path in spec.feature_std()})
            params = fg.project(params, spec, feature_std=stds)
            changes |= {"feature_std": stds, "next_feature_std": stds}
        optimizer = optax.tree.set(self.training.state.optimizer, **changes)
        return TrainState(params, statistics, optimizer)


def _with_injected_rate(optimizer_of: Callable, rate: float) -> optax.GradientTransformation:
    """The optimizer with its initial learning rate in the state: a new rate compiles nothing."""

    def optimizer(first_rate):
        return optimizer_of(first_rate)

    return optax.inject_hyperparams(optimizer)(first_rate=rate)

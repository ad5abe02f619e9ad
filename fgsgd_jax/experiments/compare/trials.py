"""Trials: short runs that differ only in learning rate, seed and scale, and so compile only once.

Learning rates are chosen on validation images, held out of the training images; the test images are
evaluated once, at the end of a trial.
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

RESULTS = ("train_loss", "validation_error", "test_error")
"""The columns of the result of every trial."""


def split(images: ImageData) -> tuple[ImageData, np.ndarray, np.ndarray]:
    """The data with half of the training images; the images and labels of the other half."""
    order = data.stratified_order(images.train_labels)
    kept, held_out = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    training = dataclasses.replace(
        images, train_images=images.train_images[kept], train_labels=images.train_labels[kept]
    )
    return training, images.train_images[held_out], images.train_labels[held_out]


class Trials:
    """The trials of one configuration; learning rate, seed and scale vary.

    Args:
        settings: The configuration. Its seed decides the random groups and manifolds of all trials.
        images: All images.
    """

    def __init__(self, settings: Config, images: ImageData):
        self.settings = settings
        self.images, self.held_out, self.held_out_labels = split(images)
        self.training = setup.prepare(settings, self.images, _with_injected_rate)
        # Plain SGD gets a spec too, for the bounds of its groups.
        self.spec = self.training.spec or setup.spec_of(
            settings, setup.network(settings, self.images, settings.seed), self.images
        )

    def run(
        self, learning_rate: float, seed: int, scale: float = 1.0, measure: Callable | None = None
    ) -> Row:
        """Trains once.

        Args:
            learning_rate: The initial learning rate.
            seed: The seed of the weights and of the order of the images.
            scale: Multiplies the scale of the configuration.
            measure: Takes these trials and the final state, and returns further columns.

        Returns:
            The training loss of the last epoch, validation and test error. The errors are 1 if the
            loss is no longer finite.
        """
        state = self._start(learning_rate, seed, scale)
        loss = math.nan
        for epoch in range(1, self.settings.epochs + 1):
            losses = []
            for batch in data.batches(self.images, self.settings.batch_size, seed, epoch):
                state, batch_loss, *_ = self.training.step(state, *batch)
                losses.append(batch_loss)
            loss = float(jnp.mean(jnp.stack(losses)))
            if not math.isfinite(loss):
                break
            state = self.training.rescale(state, epoch)
        row: Row = {"train_loss": loss, "validation_error": 1.0, "test_error": 1.0}
        if math.isfinite(loss):
            test = self.images.test_images, self.images.test_labels
            row |= {
                "validation_error": self._error(state, self.held_out, self.held_out_labels),
                "test_error": self._error(state, *test),
            }
        return row | (measure(self, state) if measure else {})

    def _error(self, state: TrainState, images: np.ndarray, labels: np.ndarray) -> float:
        return steps.loss_and_error(self.training.outputs(state, images), labels)[1]

    def _start(self, learning_rate: float, seed: int, scale: float) -> TrainState:
        """The state before the first step of a trial."""
        model = setup.network(self.settings, self.images, seed)
        _, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
        changes: dict[str, Any] = {"first_rate": jnp.asarray(learning_rate)}
        spec = self.training.spec
        if spec is not None:
            # The optimizer sees a multiple of the scale as a λ that the weights already have.
            stds = spec.feature_std({path: 1 / scale for path in spec.feature_std()})
            params = fg.project(params, spec, feature_std=stds)
            changes |= {"feature_std": stds, "next_feature_std": stds}
        optimizer = optax.tree.set(self.training.state.optimizer, **changes)
        return TrainState(params, statistics, optimizer)


def _with_injected_rate(optimizer_of: Callable, rate: float) -> optax.GradientTransformation:
    """The optimizer with its initial learning rate in the state: a new rate compiles nothing."""

    def optimizer(first_rate):
        return optimizer_of(first_rate)

    return optax.inject_hyperparams(optimizer)(first_rate=rate)

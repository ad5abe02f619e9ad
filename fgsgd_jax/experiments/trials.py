"""Trials: many short runs of one network that differ in numbers only, compiled once.

Rates are chosen on validation images, which are held out of the training images; test images are
looked at once, at the end of a trial.
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
from fgsgd_jax.experiments import data, fit, steps
from fgsgd_jax.experiments.config import Config
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.report import Row
from fgsgd_jax.experiments.steps import TrainState


def split(images: ImageData) -> tuple[ImageData, np.ndarray, np.ndarray]:
    """The data with half of the training images kept, and the other half for validation."""
    order = data.stratified_order(images.train_labels)
    kept, held_out = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    training = dataclasses.replace(
        images, train_images=images.train_images[kept], train_labels=images.train_labels[kept]
    )
    return training, images.train_images[held_out], images.train_labels[held_out]


class Trials:
    """The trials of one setting, whose learning rate, seed and scale are free.

    Args:
        settings: All else. The random groups and kinds are those of its seed in every trial.
        images: All images.
    """

    def __init__(self, settings: Config, images: ImageData):
        self.settings = settings
        self.images, self.held_out, self.held_out_labels = split(images)
        self.training = fit.prepared(settings, self.images, _with_injected_rate)
        # Plain SGD has the groups, too, for the bounds on them.
        self.groups = self.training.spec or fit.spec_of(
            settings, fit.network(settings, self.images, settings.seed), self.images
        )

    def run(
        self, learning_rate: float, seed: int, scale: float = 1.0, measure: Callable | None = None
    ) -> Row:
        """Trains once.

        Args:
            learning_rate: The first learning rate.
            seed: Of the weights and the order of the images.
            scale: Multiplies that of the settings.
            measure: What else is to be known of the last state, as a function to a row.

        Returns:
            Training loss of the last epoch, validation and test error; errors are 1 where the loss
            is no number any more.
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
            state = self.training.rescaled(state, epoch)
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
        model = fit.network(self.settings, self.images, seed)
        _, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
        anew: dict[str, Any] = {"first_rate": jnp.asarray(learning_rate)}
        spec = self.training.spec
        if spec is not None:
            # A multiple of the scale is, to the optimizer, a λ that the weights are at already.
            stds = spec.feature_std({path: 1 / scale for path in spec.feature_std()})
            params = fg.project(params, spec, feature_std=stds)
            anew |= {"feature_std": stds, "next_feature_std": stds}
        optimizer = optax.tree.set(self.training.state.optimizer, **anew)
        return TrainState(params, statistics, optimizer)


def _with_injected_rate(of_rate: Callable, rate: float) -> optax.GradientTransformation:
    """The optimizer with its first learning rate in the state, so that it is no constant."""

    def made(first_rate):
        return of_rate(first_rate)

    return optax.inject_hyperparams(made)(first_rate=rate)

"""Images read pixel by pixel in a random order, by a recurrent network that answers at the end.

The order is the same for all images, so that neighbors are far apart and the network cannot rely on
the last pixels. Images of more than 14×14 pixels are averaged to at most that many. The methods are
those of `recurrent.py`.

References:
    Le, Jaitly & Hinton, *A simple way to initialize recurrent networks of rectified linear units*,
    2015 (the problem, with 784 pixels).
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.study import figures, recurrent
from fgsgd_jax.experiments.study.grid import Study
from fgsgd_jax.experiments.study.paper_images import shrunken
from fgsgd_jax.experiments.study.training import fit, split

BATCH = 50
LARGEST = 14  # pixels along a side


def study(images: ImageData, *, smoke: bool) -> Study:
    """The study on these images; `smoke` makes it small enough for a test."""
    methods, epochs = recurrent.methods(), 1 if smoke else 15
    if smoke:
        methods = {name: methods[name][:1] for name in ("Stiefel, fgsgd", "free, Adam")}
    problem = _Problem(images, epochs)
    result = Study(
        name=f"permuted-{images.name}",
        title=f"{images.name}: {len(problem.train[1])} training, {len(problem.validation[1])} "
        f"validation and {len(problem.test[1])} test images, as sequences of "
        f"{problem.train[0].shape[1]} pixels in one random order; {recurrent.UNITS} units with "
        f"modReLU, {epochs} epochs, the same orthogonal recurrent matrices to start from. Rate: "
        "of the recurrent matrix; others: of all other weights, by Adam",
        cases=[{}],
        methods=methods,
        run=problem.run,
        score="validation_error",
        results={
            "test_error": "test error",
            "train_loss": "training loss",
            "residual": "‖WᵀW − 1‖ / √units",
        },
        seeds=2 if smoke else 5,
        tuning_seeds=1,
        draw=lambda rows, path: _draw(result, rows, path),
    )
    return result


# --- training ---------------------------------------------------------------------------------


class _Problem:
    """The sequences, and the training of one trial."""

    def __init__(self, images: ImageData, epochs: int):
        self.mean, self.deviation = images.statistics()
        self.train, self.validation, self.test = split(images, self._sequences)
        self.classes, self.epochs = images.classes, epochs

    def _sequences(self, images: np.ndarray) -> jax.Array:
        """`(number, length)`, the pixels of every image in the same random order."""
        side = images.shape[1]
        factor = next(n for n in range(1, side + 1) if side % n == 0 and side // n <= LARGEST)
        pixels = shrunken(images, factor).reshape(len(images), -1)
        order = np.random.default_rng(0).permutation(pixels.shape[1])
        scaled = (jnp.asarray(pixels, jnp.float32) - self.mean.mean()) / self.deviation.mean()
        return scaled[:, order]

    def run(self, trial: Row) -> Row:
        """Trains one network and measures it."""
        key = jax.random.key(trial["seed"])
        return self._trained(trial["method"], key, trial["rate"], trial["others"])

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def _trained(self, method: str, key, rate, others) -> dict[str, jax.Array]:
        keys = jax.random.split(key)
        params = recurrent.initial(keys[0], 1, self.classes)
        tx = recurrent.optimizer(method, params, rate, optax.adam(others))
        params, _ = fit(
            loss_of, tx, params, *self.train, keys[1], epochs=self.epochs, batch_size=BATCH
        )

        def error(inputs, labels):
            return jnp.mean(network(params, inputs).argmax(-1) != labels)

        return {
            "validation_error": error(*self.validation),
            "test_error": error(*self.test),
            "train_loss": loss_of(params, *self.train),
            "residual": recurrent.residual(params),
        }


def network(params: dict[str, jax.Array], inputs: jax.Array) -> jax.Array:
    """The outputs `(number, classes)` for sequences `(number, length)`."""
    units = recurrent.units(params, inputs.T[..., None] * params["input"])
    return units[-1] @ params["output"] + params["output_bias"]


def loss_of(params: dict[str, jax.Array], inputs: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean cross-entropy."""
    outputs = network(params, inputs)
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()


# --- the figure -------------------------------------------------------------------------------


def _draw(study: Study, rows: list[Row], path: Path) -> None:
    """Validation error over the rate of the recurrent matrix, and test error of every method."""
    figures.draw_rates(study, rows, path, rate="rate of the recurrent matrix", largest=1)

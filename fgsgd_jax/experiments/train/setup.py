"""From a configuration and its data to everything that training needs before its first step."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import fgsgd_jax as fg
import fgsgd_jax.nnx as fg_nnx
from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.models import CNN
from fgsgd_jax.experiments.train import steps
from fgsgd_jax.experiments.train.config import Config
from fgsgd_jax.experiments.train.steps import TrainState

# The learning rate is learning_rate / (1 + epochs / 6), so it is halved after this many epochs. On
# a validation set of digits (four to six seeds; 3, 6 and 10 tried) a cosine schedule gives the same
# results within noise. Unlike a cosine, this schedule does not depend on the length of the run, so
# a run that is resumed for more epochs equals one that was longer from the start.
RATE_HALVES_AFTER = 6


class Training(NamedTuple):
    """What `prepare` makes of a configuration and its data. Only the state changes afterwards.

    Attributes:
        images: The data.
        spec: Which weights are on which manifolds; None for plain SGD.
        learning_rate: The learning rate as a function of the step.
        step: One training step.
        outputs: The logits of any images.
        rescale: Re-scales a state by the features of an epoch; returns it unchanged if the
            configuration asks for no re-scaling.
        state: The state before the first step.
    """

    images: ImageData
    spec: fg.Collection | None
    learning_rate: optax.Schedule
    step: steps.TrainStep
    outputs: steps.Outputs
    rescale: Callable[[TrainState, int], TrainState]
    state: TrainState


def prepare(
    settings: Config, images: ImageData, make_optimizer: Callable | None = None
) -> Training:
    """The network, its manifolds and its optimizer, before the first step.

    Args:
        settings: The run.
        images: Its data.
        make_optimizer: Takes a function from the initial learning rate to the optimizer, and that
            rate, and returns the optimizer; None calls the function.

    Raises:
        UsageError: If the manifolds or groups asked for do not fit the network.
    """
    if settings.batch_size > len(images.train_labels):
        raise UsageError(
            f"--batch-size {settings.batch_size} is more than the {len(images.train_labels)} "
            "training images; give a smaller number."
        )
    model = network(settings, images, settings.seed)
    graph, params, averages = nnx.split(model, nnx.Param, nnx.BatchStat)
    half_life = RATE_HALVES_AFTER * steps_per_epoch(settings, images)
    schedule = functools.partial(fg.robbins_monro, transition_steps=half_life)
    spec = None if settings.optimizer == "sgd" else spec_of(settings, model, images)
    if spec is not None:
        params = fg.project(params, spec)
    euclidean_rate = schedule(settings.euclidean_learning_rate)

    def optimizer_of(learning_rate):
        return _optimizer(settings, spec, schedule(learning_rate), euclidean_rate)

    rate = settings.learning_rate
    optimizer = make_optimizer(optimizer_of, rate) if make_optimizer else optimizer_of(rate)
    return Training(
        images,
        spec,
        schedule(rate),
        steps.train_step(graph, optimizer, images),
        steps.outputs(graph, images),
        _rescaling(settings, graph, images, spec),
        TrainState(params, averages, optimizer.init(params)),
    )


def require_optimizer(settings: Config) -> None:
    """Raises if the optimizer cannot use the manifolds, which shows on any kernel.

    Raises:
        UsageError: If it cannot.
    """
    if settings.optimizer != "sgd":
        kernel = {"conv1": {"kernel": jax.ShapeDtypeStruct((3, 3, 64, 64), jnp.float32)}}
        request = fg.pom(settings.scheme, _manifolds(settings))
        spec = fg.collection(kernel, ("conv1/kernel", request))
        rate = optax.constant_schedule(1.0)
        _optimizer(settings, spec, rate, rate)


def network(settings: Config, images: ImageData, seed: int) -> CNN:
    """The network for these images, with newly initialized weights."""
    shape = images.train_images.shape[1:]
    return CNN(settings.channels, shape, images.classes, rngs=nnx.Rngs(seed))


def spec_of(settings: Config, model: CNN, images: ImageData) -> fg.Collection:
    """The spec with the convolution kernels on the manifolds asked for, all else Euclidean.

    Raises:
        UsageError: If the manifolds or groups do not fit the network.
    """
    map_sizes = None
    if settings.scale == "literal":
        one = jax.ShapeDtypeStruct((1, *images.train_images.shape[1:]), jnp.float32)
        map_sizes = fg_nnx.feature_map_sizes(model, one, training=False)
    try:
        return fg.collection(
            nnx.state(model, nnx.Param),
            ("conv*/kernel", fg.pom(settings.scheme, _manifolds(settings), groups=settings.groups)),
            default=None,
            scale={"none": None, "literal": "geometric"}.get(str(settings.scale), settings.scale),
            feature_map_sizes=map_sizes,
            seed=settings.seed,
        )
    except ValueError as error:  # the message of the library says what does not fit
        raise UsageError(str(error)) from error


def _manifolds(settings: Config) -> tuple[fg.Manifold, ...]:
    return tuple(getattr(fg, name.title())() for name in settings.manifolds)


def steps_per_epoch(settings: Config, images: ImageData) -> int:
    """The number of whole batches in an epoch."""
    return len(images.train_labels) // settings.batch_size


def _rescaling(
    settings: Config, graph: nnx.GraphDef, images: ImageData, spec: fg.Collection | None
) -> Callable[[TrainState, int], TrainState]:
    if spec is None or not settings.feature_batches:
        return lambda state, epoch: state
    measure = steps.feature_statistics(
        graph, images, spec, settings.feature_batches, settings.batch_size
    )

    def rescale(state, epoch):
        stds = measure(state, settings.seed, epoch)
        optimizer = fg.set_feature_std(
            state.optimizer,
            stds,
            min_std=settings.min_std,
            pooled=settings.feature_std == "kernel",
        )
        return state._replace(optimizer=optimizer)

    return rescale


def _optimizer(
    settings: Config,
    spec: fg.Collection | None,
    learning_rate: optax.Schedule,
    euclidean_learning_rate: optax.Schedule,
) -> optax.GradientTransformation:
    """The optimizer asked for on the manifolds, and SGD with momentum for all other weights."""

    def sgd(rate):
        decay = optax.add_decayed_weights(settings.weight_decay)
        return optax.chain(decay, optax.sgd(rate, settings.momentum))

    if spec is None:
        return sgd(learning_rate)
    try:
        return _on_manifolds(settings, spec, learning_rate, sgd(euclidean_learning_rate))
    except ValueError as error:  # the message of the library says what does not fit
        raise UsageError(str(error)) from error


def _on_manifolds(
    settings: Config,
    spec: fg.Collection,
    learning_rate: optax.Schedule,
    euclidean: optax.GradientTransformation,
) -> optax.GradientTransformation:
    momentum, coordinates = settings.momentum, settings.coordinates
    match settings.optimizer:
        case "riemannian-adam":
            return fg.riemannian_adam(
                learning_rate, spec, b1=momentum, coordinates=coordinates, euclidean=euclidean
            )
        case "manifold-muon":
            return fg.manifold_muon(learning_rate, spec, momentum=momentum, euclidean=euclidean)
        case "adam-h":
            adam = optax.adam(1.0, b1=momentum)
            return fg.on_manifold(adam, spec, relative_step=learning_rate, euclidean=euclidean)
    sgd = {"fgsgd": fg.fgsgd, "rsgd": fg.rsgd}[settings.optimizer]
    return sgd(learning_rate, spec, momentum=momentum, coordinates=coordinates, euclidean=euclidean)

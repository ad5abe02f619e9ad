"""How long a step of the study `paper` takes on this device, for every kind of convolution."""

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp

from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.study.config import Paper
from fgsgd_jax.experiments.study.paper_training import Hyperparameters, Training
from fgsgd_jax.experiments.study.resnet import CONVOLUTIONS

REPEATS = 20


def probe(images: ImageData, settings: Paper) -> None:
    """Prints the time of a gradient with every kind of convolution, and of every update."""
    ones = jnp.ones(settings.together)
    given = Hyperparameters(rates=ones, decays=ones, steps=jnp.asarray(1000))
    keys = jax.random.split(jax.random.key(0), settings.together)
    device = jax.devices()[0].device_kind
    print(f"{device}: {settings.together} runs of {settings.batch_size} images at once", flush=True)

    trainings = [
        Training(images, dataclasses.replace(settings, convolution=kind)) for kind in CONVOLUTIONS
    ]
    training, *_ = trainings
    lowered = training.lowered(settings.methods)
    del lowered["gradient"], lowered["measure"]  # below, with every kind of convolution
    for other in trainings:
        programs = other.lowered(settings.methods[:1])
        for name in ("gradient", "measure"):
            lowered[name, other.settings.convolution] = programs[name]

    with ThreadPoolExecutor() as threads:
        compiling = {name: threads.submit(_compiled, lowered[name]) for name in lowered}
        print("program                  compiled in      one call", flush=True)
        step = jnp.zeros((), jnp.int32)
        orders = compiling["orders"].result()[0](keys, step)
        params = compiling["initial"].result()[0](keys)
        data = training.data

        def report(name: Any, call: Callable[[Any], Any], repeats: int = REPEATS) -> None:
            program, seconds = compiling[name].result()
            spelled = " ".join(name) if isinstance(name, tuple) else name
            milliseconds = 1e3 * _seconds(lambda: call(program), repeats)
            print(f"{spelled:24} {seconds:9.1f} s {milliseconds:10.3f} ms", flush=True)

        report("orders", lambda program: program(keys, step))
        for method in settings.methods:
            held = compiling["start", method].result()[0](params, given)
            gradient = jax.tree.map(jnp.zeros_like, held[0])

            def update(program, gradient=gradient, held=held):  # its arguments are donated
                return program(*jax.tree.map(jnp.copy, held), gradient, given)

            report(("update", method), update)
        for kind in CONVOLUTIONS:
            report(
                ("gradient", kind),
                lambda program: program(params, keys, orders, step, data.training),
            )
            report(
                ("measure", kind),
                lambda program: program(params, data.training, data.validation, data.test),
                repeats=2,
            )
    print(f"An epoch of each run has {training.steps_per_epoch} gradients and updates.")


def _compiled(program: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    return program.compile(), time.perf_counter() - start


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    """The mean time of a call, after one that does not count."""
    jax.block_until_ready(call())
    start = time.perf_counter()
    for _ in range(repeats):
        results = call()
    jax.block_until_ready(results)
    return (time.perf_counter() - start) / repeats

"""The updates that are compiled: optimizers on the shapes of networks, without any values."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

import fgsgd_jax as fg
from fgsgd_jax import kernels
from fgsgd_jax.experiments.bench import networks
from fgsgd_jax.experiments.bench.config import MOMENTUM, RATE
from fgsgd_jax.experiments.bench.weights import manifolds_named, update_of

from .devices import DEVICES

PIO_GROUPS = 64
MIXTURE = ("sphere", "oblique", "stiefel")
MATRICES = {f"matrix{i}": (1024, 256) for i in range(4)}
DENSE = [(784, 512), (512, 512), (512, 10)]


@dataclasses.dataclass(frozen=True)
class Case:
    """An update to compile.

    Attributes:
        block: The weights, as a heading of the table.
        label: The optimizer.
        optimizer: Makes it from the shapes of the weights.
        params: The shapes of the weights.
        limit: The bytes per weight that an update cannot do without, or None: every array of the
            size of the weights read and written once; where the norm of a group has to be known
            before the step, the weight read twice, and the gradient or the new momentum as well.
        devices: The devices that it is compiled for.
        step: Makes of the optimizer a function `(weights, state, gradient) -> (weights, state)`.
    """

    block: str
    label: str
    optimizer: Callable[[Any], optax.GradientTransformation]
    params: Any
    limit: float | None = None
    devices: tuple[str, ...] = tuple(DEVICES)
    step: Callable[[Any], Callable] = update_of

    @property
    def name(self) -> str:
        """Block and label."""
        return f"{self.block}: {self.label}"

    @property
    def leaves(self) -> int:
        """The number of weights that are arrays of their own."""
        return len(jax.tree.leaves(self.params))

    @property
    def weights(self) -> int:
        """The number of weights."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    @property
    def weight_bytes(self) -> int:
        """The bytes of the weights."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.params))

    def traced(self) -> tuple[Callable, tuple]:
        """The update `(weights, state, gradient) -> (weights, state)`, and shapes for a call."""
        tx = self.optimizer(self.params)
        return self.step(tx), (self.params, jax.eval_shape(tx.init, self.params), self.params)


def cases() -> Iterator[Case]:
    """All updates, in the order of the table."""
    for dtype in (jnp.float32, jnp.bfloat16):
        for case in _small_components(dtype):
            yield case
        for case in _small_components(dtype):
            if case.label.startswith(("fgsgd", "riemannian_adam")):
                yield _in_place(_by_pallas(case))
            if case.label == f"fgsgd PO, {'+'.join(MIXTURE)}":
                yield _by_pallas(case)
    yield from _matrices()
    yield from _path_sgd()


def _small_components(dtype) -> Iterator[Case]:
    params = _shapes(networks.shapes_of("resnet18-3x3", 1), dtype)
    size = jnp.dtype(dtype).itemsize
    block = f"ResNet-18, 3×3 kernels, {jnp.dtype(dtype).name}"
    yield Case(block, "optax.sgd", lambda _: optax.sgd(RATE), params, 3 * size)
    yield Case(block, "optax.sgd, momentum", _sgd, params, 5 * size)
    yield Case(block, "optax.adamw", lambda _: optax.adamw(RATE), params, 7 * size)
    for names in (*((name,) for name in MIXTURE), MIXTURE):
        drawn = len(names) > 1  # the drawn manifolds: a byte per component, in either pass
        for scheme, momentum in (("PO", None), ("PI", None), ("PIO", None), ("PO", MOMENTUM)):
            label = f"fgsgd {scheme}, {'+'.join(names)}" + (", momentum" if momentum else "")
            limit = size * (5 if momentum is None else 7) + 2 * drawn / 9
            yield Case(block, label, _fgsgd(scheme, names, momentum), params, limit)
        yield Case(block, f"riemannian_adam PO, {'+'.join(names)}", _adam(names), params)


def _by_pallas(case: Case) -> Case:
    """The same update with the step by kernels of Pallas, whose result `apply_updates` adds."""

    def optimizer(params):
        before, kernels.PALLAS = kernels.PALLAS, True
        try:
            return case.optimizer(params)
        finally:
            kernels.PALLAS = before

    label = case.label.replace("fgsgd", "Pallas, added").replace("riemannian_adam", "Pallas, adam")
    return dataclasses.replace(case, label=label, optimizer=optimizer)


def _in_place(case: Case) -> Case:
    """The same update by `apply_gradients`: the kernels write the new weights."""

    def step(tx):
        return lambda params, state, gradient: fg.apply_gradients(tx, gradient, state, params)

    label = case.label.replace("Pallas, added", "Pallas")
    return dataclasses.replace(case, label=label, step=step)


def _matrices() -> Iterator[Case]:
    params = _shapes(MATRICES, jnp.float32)
    rows, columns = next(iter(MATRICES.values()))
    block = f"{len(MATRICES)} matrices of {rows}×{columns}, float32"
    yield Case(block, "optax.sgd, momentum", _sgd, params)
    yield Case(block, "optax.contrib.muon", lambda _: optax.contrib.muon(RATE), params)
    for name, optimizer in (("fgsgd", fg.fgsgd), ("manifold_muon", fg.manifold_muon)):

        def on_stiefel(params, optimizer=optimizer):
            request = fg.pom("layer", fg.Stiefel(), component="matrix")
            return optimizer(RATE, fg.collection(params, ("*", request)))

        yield Case(block, f"{name}, stiefel", on_stiefel, params)


def _path_sgd() -> Iterator[Case]:
    params = [{"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)} for shape in DENSE]

    def apply_fn(params, x):
        *hidden, last = params
        for layer in hidden:
            x = jax.nn.relu(x @ layer["kernel"])
        return x @ last["kernel"]

    block = f"dense {'-'.join(str(rows) for rows, _ in DENSE)}-{DENSE[-1][1]}, float32"
    yield Case(block, "optax.sgd", lambda _: optax.sgd(RATE), params, 12)
    yield Case(block, "path_sgd", lambda _: fg.path_sgd(RATE, apply_fn, (DENSE[0][0],)), params)


def _shapes(shapes: networks.Shapes, dtype) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in shapes.items()}


def _sgd(params) -> optax.GradientTransformation:
    return optax.sgd(RATE, momentum=MOMENTUM)


def _spec(params, scheme, names) -> fg.Collection:
    groups = PIO_GROUPS if scheme == "PIO" else None
    return fg.collection(params, ("*", fg.pom(scheme, manifolds_named(names), groups=groups)))


def _fgsgd(scheme, names, momentum) -> Callable[[Any], optax.GradientTransformation]:
    return lambda params: fg.fgsgd(RATE, _spec(params, scheme, names), momentum=momentum)


def _adam(names) -> Callable[[Any], optax.GradientTransformation]:
    return lambda params: fg.riemannian_adam(RATE, _spec(params, "PO", names))

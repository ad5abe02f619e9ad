"""What is measured: optimizers on the weights of networks, the most important ones first."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

import fgsgd_jax as fg
from fgsgd_jax.experiments.bench import networks
from fgsgd_jax.experiments.bench.config import MOMENTUM, RATE
from fgsgd_jax.experiments.bench.weights import manifolds_named, normal, start_on

from ..compiled.cases import MIXTURE, PIO_GROUPS

SMALL = "ResNet-18, 3×3 kernels, float32"
SETS = (*((name,) for name in MIXTURE), MIXTURE)
MATRICES = ((512, 512), (1024, 256), (768, 3072))
LARGE = ((256, 256), (1024, 256), (1024, 1024))
HEADS = 6

Prepared = tuple[optax.GradientTransformation, Any]
"""A transformation, and weights from which it can start."""


@dataclasses.dataclass(frozen=True)
class Case:
    """An update to measure.

    Attributes:
        label: Its name in the table.
        prepare: Takes weights and returns the transformation, and weights from which it can start.
    """

    label: str
    prepare: Callable[[Any], Prepared]


@dataclasses.dataclass(frozen=True)
class Block:
    """Weights, and the updates that are measured on them.

    Attributes:
        name: The heading in the table.
        shapes: The shapes of the weights by name.
        dtype: The dtype of weights and gradient.
        cases: The updates; the first is the baseline of all ratios.
    """

    name: str
    shapes: networks.Shapes
    dtype: Any
    cases: tuple[Case, ...]

    def weights(self, seed: int) -> dict[str, jax.Array]:
        """Normal weights, or gradients."""
        return jax.tree.map(lambda leaf: leaf.astype(self.dtype), normal(self.shapes, seed))


def blocks(width: float = 1.0) -> Iterator[Block]:
    """All blocks. `width` multiplies numbers of channels and the sides of matrices."""

    def scaled(size: int) -> int:
        return max(8, round(width * size))

    small = networks.shapes_of("resnet18-3x3", width)
    schemes = (("PO", None), ("PO", MOMENTUM), ("PIO", None), ("PIO", MOMENTUM))
    yield Block(SMALL, small, jnp.float32, (*BASELINES, *_fgsgd(*schemes)))
    yield _vit(networks.shapes_of("vit-s", width))
    for rows, columns in LARGE:
        yield _large(scaled(rows), scaled(columns))
    for rows, columns in MATRICES:
        yield _matrices(scaled(rows), scaled(columns))
    yield Block(
        "ResNet-18, 3×3 kernels, bfloat16",
        small,
        jnp.bfloat16,
        (*BASELINES, *_fgsgd(("PO", MOMENTUM), ("PIO", None))),
    )
    yield Block(
        "ResNet-50, all weights, 3×3 kernels on manifolds, float32",
        networks.shapes_of("resnet50", width),
        jnp.float32,
        (SGD, ADAMW, *_fgsgd(("PO", MOMENTUM), ("PO", None))),
    )
    yield Block(
        "ResNet-18, 3×3 kernels, float32, adaptive",
        small,
        jnp.float32,
        (SGD, ADAMW, *(_adam(names) for names in SETS), on_manifold(("sphere",))),
    )


def plain(label: str, tx: optax.GradientTransformation) -> Case:
    """An optimizer of Optax, which starts anywhere."""
    return Case(label, lambda params: (tx, params))


SGD = plain(f"optax.sgd, momentum {MOMENTUM}", optax.sgd(RATE, momentum=MOMENTUM))
ADAMW = plain("optax.adamw", optax.adamw(RATE))
BASELINES = (SGD, plain("optax.sgd", optax.sgd(RATE)), ADAMW)


def on_kernels(request: fg.Pom, make: Callable[[fg.Collection], Any]) -> Callable[[Any], Prepared]:
    """Prepares an optimizer with the 3×3 kernels on manifolds."""
    return _where(lambda name, shape: shape[:2] == (3, 3), request, make)


def _where(chosen: Callable, request: fg.Pom, make: Callable) -> Callable[[Any], Prepared]:
    def prepare(params):
        rules = (
            (name, request if chosen(name, leaf.shape) else None) for name, leaf in params.items()
        )
        spec = fg.collection(params, *rules)
        return make(spec), start_on(spec, params)

    return prepare


def request_of(scheme: Any, names: tuple[str, ...]) -> fg.Pom:
    """The request for slices on the named manifolds."""
    groups = PIO_GROUPS if scheme == "PIO" else None
    return fg.pom(scheme, manifolds_named(names), groups=groups)


def fgsgd(scheme: str, names: tuple[str, ...], momentum: float | None) -> Case:
    """FG-SGD with the 3×3 kernels on manifolds."""
    label = f"fgsgd {scheme}, {'+'.join(names)}" + (f", momentum {momentum}" if momentum else "")
    return Case(
        label,
        on_kernels(request_of(scheme, names), lambda spec: fg.fgsgd(RATE, spec, momentum=momentum)),
    )


def _fgsgd(*schemes: tuple[str, float | None]) -> Iterator[Case]:
    return (fgsgd(scheme, names, decay) for scheme, decay in schemes for names in SETS)


def _adam(names: tuple[str, ...]) -> Case:
    return Case(
        f"riemannian_adam, {'+'.join(names)}",
        on_kernels(request_of("PO", names), lambda spec: fg.riemannian_adam(RATE, spec)),
    )


def on_manifold(names: tuple[str, ...]) -> Case:
    """Adam of Optax with its weights on manifolds."""
    return Case(
        f"on_manifold(adam), {'+'.join(names)}",
        on_kernels(request_of("PO", names), lambda spec: fg.on_manifold(optax.adam(RATE), spec)),
    )


def _vit(shapes: networks.Shapes) -> Block:
    """A ViT whose attention kernels are on manifolds by head, and all dense kernels by neuron."""

    def by_head(name, shape):
        return name.split("/")[-2:-1] in (["query"], ["key"], ["value"]) and len(shape) == 3

    def dense(name, shape):
        return networks.is_kernel(name) and len(shape) == 2

    shapes = {
        name: (shape[0], HEADS, shape[1] // HEADS)
        if name.split("/")[-2:] in (["query", "kernel"], ["key", "kernel"], ["value", "kernel"])
        and shape[1] % HEADS == 0
        else shape
        for name, shape in shapes.items()
    }
    heads = fg.pom("layer", fg.Stiefel(), component="in:rows heads:stack out:columns")
    neurons = fg.pom("PO", fg.Sphere(), component="filter")

    return Block(
        "ViT-S, all weights, float32",
        shapes,
        jnp.float32,
        (
            SGD,
            ADAMW,
            plain("optax.contrib.muon", optax.contrib.muon(RATE)),
            Case(
                f"fgsgd layer, stiefel by head, momentum {MOMENTUM}",
                _where(by_head, heads, lambda spec: fg.fgsgd(RATE, spec, momentum=MOMENTUM)),
            ),
            Case(
                "manifold_muon, stiefel by head",
                _where(by_head, heads, lambda spec: fg.manifold_muon(RATE, spec)),
            ),
            Case(
                "riemannian_adam, spheres of neurons",
                _where(dense, neurons, lambda spec: fg.riemannian_adam(RATE, spec)),
            ),
            Case(
                f"fgsgd PO, spheres of neurons, momentum {MOMENTUM}",
                _where(dense, neurons, lambda spec: fg.fgsgd(RATE, spec, momentum=MOMENTUM)),
            ),
        ),
    )


def _on_stiefel(make: Callable, retraction: Any = "polar") -> Callable[[Any], Prepared]:
    request = fg.pom("layer", fg.Stiefel(retraction), component="matrix")
    return _where(lambda *_: True, request, make)


def _matrices(rows: int, columns: int) -> Block:
    return Block(
        f"4 matrices of {rows}×{columns}, float32",
        {f"matrix{index}": (rows, columns) for index in range(4)},
        jnp.float32,
        (
            SGD,
            plain("optax.contrib.muon", optax.contrib.muon(RATE)),
            Case("manifold_muon", _on_stiefel(lambda spec: fg.manifold_muon(RATE, spec))),
        ),
    )


def _large(rows: int, columns: int) -> Block:
    def landing(spec):
        return optax.chain(fg.project_to_tangent(spec), optax.scale(-RATE), fg.land_updates(spec))

    return Block(
        f"4 Stiefel points of {rows}×{columns}, float32",
        {f"matrix{index}": (rows, columns) for index in range(4)},
        jnp.float32,
        (
            SGD,
            *(
                Case(
                    f"rsgd, {retraction} retraction",
                    _on_stiefel(lambda spec: fg.rsgd(RATE, spec), retraction),
                )
                for retraction in ("polar", "cayley", *(("qr",) if _has_device_qr() else ()))
            ),
            Case("project_to_tangent, land_updates", _on_stiefel(landing)),
            *((plain("jnp.linalg.qr of W − r·g", _qr()),) if _has_device_qr() else ()),
        ),
    )


def _has_device_qr() -> bool:
    # A jitted QR decomposition can deadlock on the CPU.
    return jax.default_backend() != "cpu"


def _qr() -> optax.GradientTransformation:
    def update(updates, state, params=None):
        moved = jax.tree.map(lambda g, w: jnp.linalg.qr(w - RATE * g).Q - w, updates, params)
        return moved, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

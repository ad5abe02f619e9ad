"""The methods of the study `paper`: which kernels are on manifolds, and how weights are trained."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import optax

import fgsgd_jax as fg
from fgsgd_jax.experiments.arguments import Scheme
from fgsgd_jax.experiments.study.paper_rivals import soft_orthogonal, weight_normalized

SPHERE = fg.Sphere()
THREE = (SPHERE, fg.Oblique(), fg.Stiefel())


@dataclasses.dataclass(frozen=True)
class Method:
    """How the 3×3 kernels are trained, and at which rate the other leaves are.

    Attributes:
        scheme: Which components share a normalizer; None for kernels that stay Euclidean.
        manifolds: One manifold, or several that are drawn for the components.
        component: How a kernel is cut.
        scale: The scale of the components.
        momentum: The momentum of the kernels.
        normalized: Whether steps are divided by τ (`fgsgd`), or not (`rsgd`).
        euclidean_rate: The learning rate of the Euclidean leaves beside kernels on manifolds.
        rates: The learning rates to choose from, of the kernels on manifolds.
        unit_start: Whether Euclidean kernels start from slices of norm 1.
        rival: What Euclidean kernels get besides SGD: lengths and directions of filters that are
            trained apart, or a penalty on kernels that are not orthogonal, in place of their decay.
    """

    scheme: Scheme | None = None
    manifolds: Any = SPHERE
    component: str = "slice"
    scale: str | None = None
    momentum: float | None = 0.9
    normalized: bool = True
    euclidean_rate: float = 0.1
    rates: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
    unit_start: bool = False
    rival: Literal["weight normalization", "soft orthogonality"] | None = None

    @property
    def second(self) -> str:
        """What is tuned of Euclidean kernels besides the rate."""
        return "penalty" if self.rival == "soft orthogonality" else "decay"

    def spec(self, params: Any) -> fg.Collection | None:
        """The kernels on manifolds, one draw for all seeds; None if there are none."""
        return self._collection(params, self.scheme) if self.scheme else None

    def projected(self, params: Any) -> Any:
        """The parameters to start from."""
        if self.scheme or self.unit_start:
            return fg.project(params, self._collection(params, self.scheme or "PO"))
        return params

    def _collection(self, params: Any, scheme: Scheme) -> fg.Collection:
        one, stacked = (
            fg.pom(
                scheme, self.manifolds, component=self.component, scale=self.scale, layout=layout
            )
            for layout in ("HWIO", "SHWIO")
        )
        return fg.collection(params, ("*/kernel", one), ("*/kernels", stacked), default=None)


METHODS: Mapping[str, Method] = {
    "SGD": Method(),
    "sphere-PO": Method("PO"),
    "three-PIO": Method("PIO", THREE),
    "stiefel-PO": Method("PO", fg.Stiefel()),
    "three-PI": Method("PI", THREE),
    "three-PO": Method("PO", THREE),
    "three-kernel": Method("kernel", THREE),
    # To find out what makes the difference to SGD, one change at a time.
    "sphere-filter": Method("PO", component="filter", rates=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
    "sphere-euclidean-0.03": Method("PO", euclidean_rate=0.03),
    "sphere-euclidean-0.3": Method("PO", euclidean_rate=0.3),
    "SGD-unit-start": Method(unit_start=True),
    "sphere-no-momentum": Method("PO", momentum=None),
    "sphere-no-tau": Method("PO", normalized=False),
    "sphere-variance": Method("PO", scale="variance"),
    # What is done in the place of constraints.
    "SGD-weight-normalized": Method(rival="weight normalization"),
    "SGD-soft-orthogonal": Method(rival="soft orthogonality"),
}

MOMENTUM = 0.9  # of the Euclidean leaves
EUCLIDEAN_DECAY = 5e-4  # of the leaves that stay Euclidean beside kernels on manifolds


def optimizer(
    method: Method, params: Any, schedule: optax.Schedule, rate: jax.Array, decay: jax.Array
) -> optax.GradientTransformation:
    """The optimizer of one run.

    Args:
        method: The method.
        params: The parameters of one run.
        schedule: What all learning rates are multiplied by.
        rate: The learning rate of the kernels, with `"SGD"` of all leaves.
        decay: The weight decay, or what a penalty is multiplied by; kernels on manifolds have
            neither.
    """

    def scheduled(rate):
        return lambda count: rate * schedule(count)

    def sgd(rate, decay):
        return optax.chain(optax.add_decayed_weights(decay), optax.sgd(scheduled(rate), MOMENTUM))

    if method.rival == "weight normalization":
        return weight_normalized(sgd(rate, decay))
    if method.rival == "soft orthogonality":
        return optax.chain(soft_orthogonal(decay, EUCLIDEAN_DECAY), sgd(rate, 0.0))
    spec = method.spec(params)
    if spec is None:
        return sgd(rate, decay)
    on_manifolds = fg.fgsgd if method.normalized else fg.rsgd
    euclidean = sgd(method.euclidean_rate, EUCLIDEAN_DECAY)
    return on_manifolds(scheduled(rate), spec, momentum=method.momentum, euclidean=euclidean)

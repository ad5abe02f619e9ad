"""The methods of the study `language`: their settings, and how they train the hidden matrices."""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import optax

import fgsgd_jax as fg

DECAY = 0.1  # the usual weight decay of AdamW and Muon
ONE_LAYER = fg.Component(rows=(1,), columns=(2,), stack=(0,))
FREE = ("AdamW", "Muon")  # methods without a manifold


def methods() -> dict[str, list[dict[str, float]]]:
    """Five rates over two decades; at the middle one, two values of a second hyperparameter."""

    def grid(rates: Sequence[float], name: str, usual: float, others: Sequence[float]):
        settings = [{"rate": rate, name: usual} for rate in rates]
        return settings + [{"rate": rates[2], name: value} for value in others]

    return {
        "AdamW": grid((3e-4, 1e-3, 3e-3, 0.01, 0.03), "decay", DECAY, (0.0, 1.0)),
        "Muon": grid((3e-3, 0.01, 0.03, 0.1, 0.3), "decay", DECAY, (0.0, 1.0)),
        "AdamH": grid((1e-3, 3e-3, 0.01, 0.03, 0.1), "gain", 1.0, (0.5, 2.0)),
        "MuonH": grid((3e-3, 0.01, 0.03, 0.1, 0.3), "gain", 1.0, (0.5, 2.0)),
        "manifold_muon": grid((3e-3, 0.01, 0.03, 0.1, 0.3), "gain", 1.0, (0.5, 2.0)),
        "manifold_muon, Nesterov": grid((3e-3, 0.01, 0.03, 0.1, 0.3), "gain", 1.0, (0.5, 2.0)),
        "riemannian_adam": grid((0.03, 0.1, 0.3, 1.0, 3.0), "gain", 1.0, (0.5, 2.0)),
    }


def schedule(rate, steps: int) -> optax.Schedule:
    """Up linearly for a twentieth of the steps, then linearly to 0."""
    up = max(1, steps // 20)

    def at(count):
        return rate * jnp.minimum((count + 1) / up, (steps - count) / (steps - up))

    return at


def optimizer(method: str, params, gain: float, decay, rate, others_rate):
    """The optimizer of the hidden matrices, and Adam for all other weights."""
    others = optax.adam(others_rate)
    matrices = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)  # pyright: ignore
    muon = functools.partial(optax.contrib.muon, muon_weight_dimension_numbers=matrices)
    if method in FREE:
        tx = optax.adamw if method == "AdamW" else muon
        hidden = tx(rate, weight_decay=decay)
        labels = {"hidden": "hidden", "others": "others"}
        return optax.partition({"hidden": hidden, "others": others}, labels)
    collection = spec(method, params, gain)
    if method in ("AdamH", "MuonH"):
        tx = optax.adam(1.0) if method == "AdamH" else muon(1.0)
        return fg.on_manifold(tx, collection, relative_step=rate, euclidean=others)
    if method == "riemannian_adam":
        return fg.riemannian_adam(rate, collection, euclidean=others)
    return fg.manifold_muon(rate, collection, nesterov="Nesterov" in method, euclidean=others)


def spec(method: str, params, gain: float) -> fg.Collection:
    """The manifolds of the hidden matrices, which keep the norm that they start with.

    `riemannian_adam` has the manifolds of the preset "transformer".
    """

    def matrices(manifold):
        return fg.pom("layer", manifold, component=ONE_LAYER, scale=("variance", gain))

    manifold = fg.Stiefel() if method.startswith("manifold_muon") else fg.Sphere()
    rules = [("hidden/*", matrices(manifold))]
    if method == "riemannian_adam":
        oblique = [(f"hidden/{name}", matrices(fg.Oblique())) for name in ("up", "down")]
        rules = [*oblique, ("hidden/*", matrices(fg.Stiefel()))]
    return fg.collection(params, *rules, default=None)

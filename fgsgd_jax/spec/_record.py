"""A spec for files and states: as JSON, and as a fingerprint."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fgsgd_jax.spec._components import Component
from fgsgd_jax.spec._leaf import LeafSpec
from fgsgd_jax.spec._scales import Gamma, Numbers
from fgsgd_jax.spec._table import Leaf


def json_of(fingerprint: int, leaves: Sequence[Leaf]) -> str:
    """All that was decided for every leaf, as JSON with a line for each."""
    records = ",\n".join(json.dumps(_leaf_record(leaf)) for leaf in leaves)
    return f'{{"fingerprint": {fingerprint}, "leaves": [\n{records}\n]}}\n'


def fingerprint_of(leaves: Iterable[tuple[str, LeafSpec]]) -> int:
    """32 bits of a digest of what the drawn groups, the manifolds and their radii depend on."""
    facts = [[path, *_facts(leaf_spec)] for path, leaf_spec in leaves]
    digest = hashlib.sha256(json.dumps(facts).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _facts(leaf_spec: LeafSpec) -> list:
    # Settings such as a retraction do not enter: they may change during training.
    classes = [type(manifold).__name__ for manifold in leaf_spec.manifolds]
    cut = _axes(leaf_spec.component)
    facts = [leaf_spec.shape, cut, leaf_spec.scheme, leaf_spec.groups, classes, leaf_spec.seed]
    return facts + _radius(leaf_spec.gamma)


def _radius(gamma: Gamma) -> list[str]:
    """γ as text; nothing for unit scale, or where γ was measured from weights.

    A spec that is built again measures restored weights, which differ from the first by rounding.
    The root mean square stands for an array, to four digits, which rounding hardly changes.
    """
    if gamma is None or (isinstance(gamma, Numbers) and gamma.measured):
        return []
    mean_square = np.mean(np.square(gamma.array() if isinstance(gamma, Numbers) else gamma))
    return [f"{np.sqrt(mean_square):.4g}"]


def _axes(component: Component) -> dict[str, Any]:
    """The roles of the axes, those that have one, without the name of the cut."""
    roles = {
        field.name: getattr(component, field.name)
        for field in dataclasses.fields(component)
        if field.compare
    }
    return {role: axes for role, axes in roles.items() if axes}


def _leaf_record(leaf: Leaf) -> dict[str, Any]:
    record: dict[str, Any] = {"path": leaf.path, "shape": leaf.shape}
    if leaf.leaf_spec is None:
        return record | {"manifolds": None, "reason": leaf.reason}
    return record | {
        "manifolds": [str(manifold) for manifold in leaf.leaf_spec.manifolds],
        "component": str(leaf.leaf_spec.component),
        "axes": _axes(leaf.leaf_spec.component),
        "scheme": leaf.leaf_spec.scheme,
        "groups": leaf.leaf_spec.groups,
        "seed": leaf.leaf_spec.seed,
        "gamma": _plain(leaf.leaf_spec.gamma),
    }


def _plain(gamma: Gamma) -> Any:
    return gamma.array().tolist() if isinstance(gamma, Numbers) else gamma

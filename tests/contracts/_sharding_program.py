"""Runs updates on eight devices and prints what came of them, for `test_sharding`.

A process of its own, because the number of devices is fixed when JAX starts. Not a test by itself.
"""

import dataclasses
import functools
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from conformance_helpers import by_kind, fgsgd_trajectory, nearest, types_of
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import fgsgd_jax as fg

SPHERE, OBLIQUE, STIEFEL = fg.Sphere(), fg.Oblique(), fg.Stiefel()
MIXTURE = (SPHERE, OBLIQUE, STIEFEL)
CONV, DENSE = (3, 3, 16, 32), (64, 32)
RATE, DECAY, STEPS = 0.5, 0.9, 2


@dataclasses.dataclass(frozen=True)
class Case:
    """A weight whose last axis, its output channels, is sharded over eight devices."""

    shape: tuple[int, ...]
    pom: fg.Pom

    @property
    def spec(self) -> fg.Collection:
        return fg.collection({"w": jnp.ones(self.shape)}, ("w", self.pom))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(type(manifold).__name__.lower() for manifold in self.pom.manifolds)

    @property
    def manifold_ids(self):
        drawn = self.spec.manifold_ids().get("w")
        return None if drawn is None else np.asarray(drawn)

    @property
    def groups(self) -> np.ndarray:
        """The group of every component, in the order of `to_points`."""
        lanes = {"filter": self.shape[-1:], "matrix": ()}.get(self.pom.component, self.shape[-2:])
        if self.pom.scheme == "PIO":
            return np.asarray(self.spec.groups()["w"])
        if self.pom.scheme == "layer" or not lanes:
            return np.zeros(lanes, int)
        inputs, outputs = np.indices((1, *lanes)[-2:])
        return (inputs if self.pom.scheme == "PI" else outputs).reshape(lanes)

    def to_points(self, weight) -> np.ndarray:
        """The weight as a stack (..., rows, columns) in float64."""
        weight = np.asarray(weight).astype(np.float64)
        if self.pom.component == "filter":
            return weight.reshape(-1, weight.shape[-1]).T[..., None]
        if self.pom.component == "matrix":
            return weight.reshape(-1, weight.shape[-1])
        return np.moveaxis(weight, (0, 1), (-2, -1))

    def from_points(self, points: np.ndarray) -> np.ndarray:
        if self.pom.component == "filter":
            points = points[..., 0].T
        if self.pom.component is None:
            points = np.moveaxis(points, (-2, -1), (0, 1))
        return points.reshape(self.shape)

    def random(self, seed: int, scale: float = 1.0) -> np.ndarray:
        return scale * np.random.default_rng(seed).standard_normal(self.shape)

    def gradient(self, seed: int) -> np.ndarray:
        """A gradient about 1 long in every group: long enough to be normalized."""
        groups = self.groups.max() + 1
        return np.float32(self.random(seed, np.sqrt(groups / np.prod(self.shape))))

    def nearest(self, weight: np.ndarray) -> np.ndarray:
        points = self.to_points(weight)
        return self.from_points(by_kind(nearest, self.names, self.manifold_ids, points))


CASES = {
    f"{names} {scheme}": Case(CONV, fg.pom(scheme, manifolds))
    for names, manifolds in (
        ("sphere", SPHERE),
        ("oblique", OBLIQUE),
        ("stiefel", STIEFEL),
        ("mixture", MIXTURE),
    )
    for scheme in ("PI", "PO", "PIO", "layer")
} | {
    "stiefel 4x3 PO": Case((4, 3, 16, 32), fg.pom("PO", STIEFEL)),
    "sphere filter": Case(CONV, fg.pom("PO", SPHERE, component="filter")),
    "sphere dense filter": Case(DENSE, fg.pom("PO", SPHERE, component="filter")),
    "oblique matrix": Case(CONV, fg.pom("layer", OBLIQUE, component="matrix")),
    "oblique dense matrix": Case(DENSE, fg.pom("layer", OBLIQUE, component="matrix")),
    "stiefel matrix": Case(CONV, fg.pom("layer", STIEFEL, component="matrix")),
    "stiefel dense matrix": Case(DENSE, fg.pom("layer", STIEFEL, component="matrix")),
}
# xᵀx needs every pair of columns, so columns on eight devices are exchanged for rows.
EXCHANGES_COLUMNS = ("stiefel matrix", "stiefel dense matrix")
# A projection depends on the scheme by what is drawn only, so that of slices is measured under one.
PROJECTED = tuple(
    name
    for name, case in CASES.items()
    if case.shape != CONV or case.pom.component or case.pom.scheme == "PIO"
)
AXES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}


def collectives(program: str) -> list[tuple[str, int]]:
    """The collective operations of a compiled program, and how many numbers a device is given.

    The program is that of one device. An all-to-all is given a part by every device; of all others
    several results are several arrays, and the largest is told.
    """
    names = (
        "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
    )
    found = re.findall(rf"= (\S.*?) ({names})(?:-start)?\(", program)
    return [
        (name, (sum if name == "all-to-all" else max)(map(_numbers, shapes)))
        for types, name in found
        if (shapes := re.findall(r"\[([\d,]*)\]", types))
    ]


def _numbers(shape: str) -> int:
    """How many numbers an array of this shape holds, given as in "3,3,16"."""
    return int(np.prod([*map(int, filter(None, shape.split(",")))]))


def difference(actual, expected) -> float:
    return float(np.max(np.abs(np.asarray(actual).astype(np.float64) - expected)))


def examine(name: str, sharding: NamedSharding):
    """Yields name and measurement, one of the promises of the library at a time."""
    place = functools.partial(jax.device_put, device=sharding)
    kept = lambda leaf: leaf.sharding.is_equivalent_to(sharding, leaf.ndim)  # noqa: E731
    case = CASES[name]
    spec = case.spec

    def project():
        # Near the manifold, where the nearest point is well conditioned, but at twice its scale.
        weights = np.float32(2 * case.nearest(case.random(seed=0)) + case.random(seed=1, scale=0.1))
        params = {"w": place(weights)}
        inside = jax.jit(lambda params: fg.project(params, spec))
        both = [project(params)["w"] for project in (lambda p: fg.project(p, spec), inside)]
        return {
            "difference": max(difference(one, case.nearest(weights)) for one in both),
            "kept": all(map(kept, both)),
        }

    if name in PROJECTED:
        yield "project", project

    start = np.float32(case.nearest(case.random(seed=0)))
    gradients = [case.gradient(seed) for seed in range(2, 2 + STEPS)]
    tx = fg.fgsgd(RATE, spec, momentum=DECAY)
    params = {"w": place(start)}

    def update():
        state = tx.init(params)
        g = [{"w": place(gradient)} for gradient in gradients]
        compiled = jax.jit(tx.update).lower(g[0], state, params).compile()
        started = kept(optax.tree.get(state, "trace")["w"])
        types, weights, all_kept = [types_of(state)], params, True
        if name in ("sphere PO", "mixture PIO"):
            # Without `jit`, which is slow to compile on eight devices.
            types.append(types_of(tx.update(g[0], state, params)[1]))
        reference = fgsgd_trajectory(
            case.to_points(start),
            [case.to_points(gradient) for gradient in gradients],
            names=case.names,
            manifold_ids=case.manifold_ids,
            groups=case.groups,
            rate=RATE,
            decay=DECAY,
        )
        worst = 0.0
        for gradient, (_, momentum, after) in zip(g, reference, strict=True):
            updates, state = compiled(gradient, state, weights)
            weights = optax.apply_updates(weights, updates)
            trace = optax.tree.get(state, "trace")["w"]
            types.append(types_of(state))
            all_kept &= all(map(kept, (updates["w"], trace, weights["w"])))
            worst = max(
                worst,
                difference(weights["w"], case.from_points(after)),
                difference(trace, case.from_points(momentum)),
            )
        return {
            "difference": worst,
            "moved": difference(weights["w"], start),
            "started": started,
            "kept": all_kept,
            "types": all(one == types[0] for one in types),
            "collectives": collectives(compiled.as_text()),
        }

    yield "update", update


def examine_products(case: Case, mesh):
    """Yields likewise what else is promised of points whose columns are moved between devices."""
    tx = fg.fgsgd(RATE, case.spec, momentum=DECAY)
    weight = np.float32(case.nearest(case.random(seed=0)))
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * (len(case.shape) - 1), "x"))

    def step(gradient, weight):
        params = {"w": weight}
        return tx.update({"w": gradient}, tx.init(params), params)[0]["w"]

    def rows():
        by_rows = NamedSharding(mesh, PartitionSpec(*[None] * (len(case.shape) - 2), "x"))
        arrays = [jax.device_put(array, by_rows) for array in (case.gradient(seed=2), weight)]
        compiled = jax.jit(step).lower(*arrays).compile()
        return {
            "kept": compiled(*arrays).sharding.is_equivalent_to(by_rows, len(case.shape)),
            "collectives": collectives(compiled.as_text()),
        }

    yield "rows", rows

    def maps():
        gradients = np.stack([case.gradient(seed) for seed in range(8)])
        weights = np.broadcast_to(weight, gradients.shape)
        one = jax.jit(step)
        one_by_one = np.stack([one(gradient, weight) for gradient in gradients])
        own = PartitionSpec("x")
        placed = [jax.device_put(a, NamedSharding(mesh, own)) for a in (gradients, weights)]
        own_step = jax.shard_map(jax.vmap(step), in_specs=own, out_specs=own)
        return {
            "vmap": difference(jax.jit(jax.vmap(step))(gradients, weights), one_by_one),
            "shard_map": difference(jax.jit(own_step)(*placed), one_by_one),
        }

    yield "maps", maps

    def slope():
        gradient, direction = case.gradient(seed=2), case.gradient(seed=3)

        def loss(t):
            at = jax.device_put(gradient, sharding) + t * jax.device_put(direction, sharding)
            return jnp.sum(step(at, jax.device_put(weight, sharding)) ** 2)

        h = 1e-2
        loss_and_slope = jax.jit(jax.value_and_grad(loss))
        above, below = (loss_and_slope(t)[0] for t in (h, -h))
        expected = float(above - below) / (2 * h)
        return {
            "slope": abs(expected),
            "difference": abs(float(loss_and_slope(0.0)[1]) - expected),
        }

    yield "slope", slope


def main(only: list[str]) -> None:
    assert jax.device_count() == 8, jax.devices()
    records: dict = {}
    for axes, axis_type in AXES.items():
        mesh = jax.make_mesh((8,), ("x",), axis_types=(axis_type,))
        for name, case in CASES.items():
            if only and name not in only:
                continue
            spec = PartitionSpec(*[None] * (len(case.shape) - 1), "x")
            with jax.set_mesh(mesh):
                promises = [*examine(name, NamedSharding(mesh, spec))]
                if name in EXCHANGES_COLUMNS:
                    promises += examine_products(case, mesh)
                for promise, measure in promises:
                    try:
                        result = measure()
                    except Exception as error:
                        result = {"error": f"{type(error).__name__}: {error}"[:300]}
                    records.setdefault(axes, {}).setdefault(name, {})[promise] = result
    json.dump(records, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])

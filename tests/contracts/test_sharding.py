"""On eight devices, weights sharded over their output channels: as on one, and nothing gathered.

The devices are eight CPUs in a process of their own (`_sharding_program.py`), which tries every
case under Auto and Explicit axes; the expected numbers are NumPy's formulas on whole arrays.
"""

import functools
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest
from _sharding_program import AXES, CASES, DENSE, EXCHANGES_COLUMNS, PROJECTED
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

import fgsgd_jax as fg
from fgsgd_jax import _xla_cpu

pytestmark = pytest.mark.slow

PROGRAM = pathlib.Path(__file__).with_name("_sharding_program.py")
DEVICES = 8
EIGHT_DEVICES = f"--xla_force_host_platform_device_count={DEVICES}"

# Numbers of size 1 in float32, some ten operations each.
TOLERANCE = 1e-6

every_axis_type = pytest.mark.parametrize("axes", AXES)
every_case = pytest.mark.parametrize("case", CASES)


@functools.cache
def records() -> dict:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM)],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            # What is sharded is decided before machine code is made, which need not be fast.
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "PYTHONPATH": f"{PROGRAM.parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {EIGHT_DEVICES}",
        },
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def record_of(axes: str, case: str, promise: str) -> dict:
    record = records()[axes][case][promise]
    assert "error" not in record, record["error"]
    return record


@every_axis_type
@pytest.mark.parametrize("case", PROJECTED)
def test_projection_finds_the_nearest_weights_where_they_are(case, axes):
    record = record_of(axes, case, "project")
    assert record["difference"] <= TOLERANCE, record
    assert record["kept"]


@every_axis_type
@every_case
def test_momentum_starts_where_the_weights_are(case, axes):
    assert record_of(axes, case, "update")["started"]


@every_axis_type
@every_case
def test_two_steps_follow_the_formulas_of_one_device(case, axes):
    record = record_of(axes, case, "update")
    assert record["difference"] <= TOLERANCE, record
    assert record["moved"] > 1e-3  # far above the tolerance


@every_axis_type
@every_case
def test_weights_momentum_and_updates_stay_where_they_are(case, axes):
    assert record_of(axes, case, "update")["kept"]


@every_axis_type
@every_case
def test_types_of_the_state_are_those_of_init_after_every_update(case, axes):
    assert record_of(axes, case, "update")["types"]


@every_axis_type
@pytest.mark.parametrize("case", [case for case in CASES if case not in EXCHANGES_COLUMNS])
def test_devices_exchange_sums_over_groups_and_no_weights(case, axes):
    exchanged = record_of(axes, case, "update")["collectives"]
    # At most one number per group: 16 groups of the smaller channel axis, 32 of the larger.
    largest = DENSE[1]
    assert all(name == "all-reduce" and size <= largest for name, size in exchanged), exchanged


@every_axis_type
@pytest.mark.parametrize("case", EXCHANGES_COLUMNS)
def test_devices_exchange_columns_for_rows_and_never_hold_more_than_their_share(case, axes):
    exchanged = record_of(axes, case, "update")["collectives"]
    shape = CASES[case].shape
    share, gram = math.prod(shape) // DEVICES, shape[-1] ** 2
    # The weight, its gradient and momentum go to rows; its update and momentum come back.
    assert [size for name, size in exchanged if name == "all-to-all"] == [share] * 5, exchanged
    sums = [size for name, size in exchanged if name != "all-to-all"]
    assert {name for name, _ in exchanged} == {"all-to-all", "all-reduce"}, exchanged
    assert max(sums) == gram, exchanged


@every_axis_type
@pytest.mark.parametrize("case", EXCHANGES_COLUMNS)
def test_weights_on_devices_by_input_channels_stay_there(case, axes):
    assert record_of(axes, case, "rows")["kept"]


@every_axis_type
def test_rows_on_devices_are_not_exchanged(axes):
    # Those of a dense kernel; of a convolution the input channels are only part of the rows.
    exchanged = record_of(axes, "stiefel dense matrix", "rows")["collectives"]
    assert all(name == "all-reduce" and size <= DENSE[1] ** 2 for name, size in exchanged)


@every_axis_type
@pytest.mark.parametrize("case", EXCHANGES_COLUMNS)
@pytest.mark.parametrize("transform", ["vmap", "shard_map"])
def test_updates_are_mapped_on_several_devices_as_one_by_one(transform, case, axes):
    assert record_of(axes, case, "maps")[transform] <= TOLERANCE


@every_axis_type
@pytest.mark.parametrize("case", EXCHANGES_COLUMNS)
def test_updates_are_differentiated_on_several_devices(case, axes):
    record = record_of(axes, case, "slope")
    assert record["difference"] <= 1e-2 * record["slope"], record  # central differences, float32


def test_sums_over_groups_are_seen_among_the_collectives():
    # PI sums over the sharded axis, one number per input channel; else the tests above saw nothing.
    assert ["all-reduce", 16] in record_of("auto", "sphere PI", "update")["collectives"]


@pytest.mark.parametrize(("manifold", "scheme"), [(fg.Sphere(), "PO"), (fg.Stiefel(), "PIO")])
def test_one_device_with_explicit_axes_takes_the_steps_of_one_without(manifold, scheme):
    """On a weight that is large enough to be computed in stages."""
    key = jax.random.key(0)
    params = {"w": jax.random.normal(key, (3, 3, 64, 128))}
    assert params["w"].size >= _xla_cpu.MATERIALIZED_SIZE
    spec = fg.collection(params, ("w", fg.pom(scheme, manifold)))
    params = fg.project(params, spec)
    tx = fg.fgsgd(0.1, spec, momentum=0.9)

    def step(params, state):
        updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
        return optax.apply_updates(params, updates), state

    plain, _ = jax.jit(step)(params, tx.init(params))
    mesh = jax.make_mesh((1,), ("device",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        place = NamedSharding(mesh, PartitionSpec(None, None, None, "device"))
        params = jax.device_put(params, place)
        placed, _ = jax.jit(step)(params, jax.jit(tx.init)(params))
        assert placed["w"].sharding.spec == place.spec
    assert_allclose(placed["w"], plain["w"], atol=TOLERANCE)


def test_riemannian_adam_moves_a_matrix_whose_rows_are_sharded_over_explicit_axes():
    params = {"w": jax.random.normal(jax.random.key(0), (16, 8))}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Stiefel())))
    params = fg.project(params, spec)
    tx = fg.riemannian_adam(0.1, spec)

    def step(params, state):
        return tx.update(jax.tree.map(jnp.sin, params), state, params)[0]["w"]

    plain = jax.jit(step)(params, tx.init(params))
    mesh = jax.make_mesh((1,), ("device",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        params = jax.device_put(params, NamedSharding(mesh, PartitionSpec("device")))
        placed = jax.jit(step)(params, jax.jit(tx.init)(params))
        assert placed.sharding.spec == PartitionSpec("device", None)
    assert_allclose(placed, plain, atol=TOLERANCE)


def test_explicit_axes_without_a_mesh_that_is_set_are_answered_with_what_to_call():
    mesh = jax.make_mesh((1,), ("device",), axis_types=(AxisType.Explicit,))
    weight = jax.device_put(jnp.eye(4, 3), NamedSharding(mesh, PartitionSpec(None, "device")))
    spec = fg.collection({"w": weight}, ("w", fg.pom("layer", fg.Stiefel())))
    tx = fg.fgsgd(0.1, spec)
    with jax.set_mesh(mesh):
        state = tx.init({"w": weight})
    for call in (
        lambda: fg.project({"w": weight}, spec),
        lambda: fg.residual({"w": weight}, spec),
        lambda: tx.init({"w": weight}),
        lambda: tx.update({"w": weight}, state, {"w": weight}),
    ):
        with pytest.raises(ValueError, match=r"Explicit axes.*Call jax\.set_mesh\(mesh\)"):
            call()

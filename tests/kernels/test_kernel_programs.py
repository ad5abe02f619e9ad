"""The programs that JAX makes of the kernels for GPUs and TPUs take the step of the chain too.

Once more for Triton with sums of products that are rounded once, as compilers for GPUs make them.
"""

import functools

import jax
import jax.experimental.pallas as pallas
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.pallas import triton

import fgsgd_jax as fg
from fgsgd_jax import kernels
from fgsgd_jax.kernels import _pallas, _pallas_gpu, _pallas_tpu
from tests.kernels import mosaic_programs, triton_programs
from tests.kernels.test_fused_step import assert_far_weights_land, compare
from tests.kernels.test_pallas_step import (
    SECOND_BLOCK,
    assert_rest_and_nan_are_kept,
    compare_new_weights,
    every_operation,
)

pytestmark = pytest.mark.usefixtures("quickly_compiled")
from_programs = pytest.mark.usefixtures("computed")

TRITON = functools.partial(triton_programs.emulated_call, False)
FUSED = functools.partial(triton_programs.emulated_call, True)


@pytest.fixture(params=["triton", "fused", "mosaic"])
def computed(request, monkeypatch):
    """Programs for the CPU take the kernels, each as the program that JAX makes of it."""
    jax.clear_caches()
    monkeypatch.setattr(kernels, "PALLAS", True)
    monkeypatch.setattr(_pallas, "GPUS", ("cpu",))
    monkeypatch.setattr(_pallas, "TPUS", ())
    if request.param == "mosaic":
        monkeypatch.setattr(_pallas_gpu, "launch", _pallas_tpu.launch)
    calls = {"triton": TRITON, "fused": FUSED, "mosaic": mosaic_programs.emulated_call}
    monkeypatch.setattr(pallas, "pallas_call", calls[request.param])
    yield request.param
    jax.clear_caches()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "dtype", "names", "scheme", "momentum"),
    [
        ((3, 3, 4, 6), "float64", "qr", "PO", "none"),
        (SECOND_BLOCK, "float32", "stiefel", "PI", "nesterov"),
        ((2, 4, 7, 11), "float32", "oblique", "kernel", "heavy ball"),
        ((3, 3, 1, 1), "bfloat16", "oblique", "layer", "nesterov"),
        (SECOND_BLOCK, "float32", "four types", "PIO", "heavy ball"),
        ((3, 3, 4, 6), "bfloat16", "stiefel", "PO", "heavy ball"),
    ],
)
def test_every_manifold_scheme_and_dtype(shape, dtype, names, scheme, momentum, computed):
    if computed == "mosaic" and dtype == "float64":
        pytest.skip("TPUs have no numbers of 64 bits")
    compare(shape, dtype, names, scheme, momentum, size=0.3)


@from_programs
@pytest.mark.parametrize("name", ["sphere", "four types"])
def test_new_weights_are_written_in_the_place_of_the_old_ones(name):
    compare_new_weights("float32", name, "heavy ball")


@from_programs
@pytest.mark.slow
def test_adaptive_steps_of_scaled_weights(monkeypatch):
    params = {"w": jax.random.normal(jax.random.key(0), (3, 3, 4, 6))}
    spec = fg.collection(params, ("w", fg.pom("PO", (fg.Oblique(), fg.Sphere()), scale=0.3)))
    params = fg.project(params, spec)
    gradient = jax.tree.map(lambda leaf: jnp.cos(100 * leaf), params)

    def update():
        tx = fg.riemannian_adam(0.1, spec)
        return jax.jit(tx.update)(gradient, tx.init(params), params)[0]["w"]

    by_programs = update()
    monkeypatch.setattr(kernels, "PALLAS", False)
    np.testing.assert_allclose(by_programs, update(), rtol=1e-4, atol=2e-6)


@from_programs
def test_points_at_rest_stay_and_groups_without_a_direction_become_nan():
    assert_rest_and_nan_are_kept()


@from_programs
@pytest.mark.slow
def test_long_gradients_lead_weights_far_off_onto_their_manifolds():
    assert_far_weights_land("four types")


@from_programs
def test_nearly_normal_gradients_leave_weights_on_their_manifolds():
    params = {"w": jax.random.normal(jax.random.key(0), (3, 3, 4, 6))}
    request = fg.pom("PO", (fg.Sphere(), fg.Oblique(), fg.Stiefel()))
    spec = fg.collection(params, ("w", request))
    params = fg.project(params, spec)
    gradient = {"w": 1e6 * params["w"] + jax.random.normal(jax.random.key(1), (3, 3, 4, 6))}
    tx = fg.fgsgd(1.0, spec)
    updates, _ = jax.jit(tx.update)(gradient, tx.init(params), params)
    assert float(jnp.max(jnp.abs(updates["w"]))) > 0.01
    moved = optax.apply_updates(params, updates)
    assert float(fg.residual(moved, spec)["w"]) < 1e-6


@from_programs
def test_every_operation_that_is_taken():
    rng = np.random.default_rng(0)
    x, n = (np.asarray(rng.uniform(0.2, 4, size), np.float32) for size in ((2, 2, 7), (7,)))
    kernel = _pallas.OneKernel(every_operation, (jnp.asarray(x),), (jnp.asarray(n),))
    (found,) = jax.jit(lambda: kernel("cpu", {}))()
    expected = [every_operation((x[..., i],), (n[i],))[0] for i in range(7)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("programs", "platform"), [(triton_programs, "cuda"), (mosaic_programs, "tpu")]
)
def test_a_kernel_that_is_mapped_over_a_batch(programs, platform):
    rng = np.random.default_rng(0)
    x, n = (np.asarray(rng.normal(size=size), np.float32) for size in ((3, 2, 2, 150), (3, 150)))

    def scaled(points, numbers):
        return (points[0] * numbers[0],)

    @jax.vmap
    def kernel(x, n):
        return _pallas.OneKernel(scaled, (x,), (n,))(platform, {})

    program = programs.program_of(kernel, x, n)
    shape, numbers = ((3, 4, 150), n) if platform == "cuda" else ((3, 4, 1, 150), n[:, None])
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32)]
    (found,) = program([x.reshape(shape), numbers], shapes, {})
    np.testing.assert_array_equal(found.reshape(x.shape), x * n[:, None, None])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda i, x: (i * 8 + jnp.arange(8), None), "out of bounds"),
        (lambda i, x: (jnp.arange(8), None), "more than once"),
        (lambda i, x: ((i * 8 + jnp.arange(8) + 1) % 12, i * 8 + jnp.arange(8) < 12), "another"),
    ],
)
def test_what_a_gpu_would_do_silently_is_refused(wrong, message, monkeypatch):
    monkeypatch.setattr(pallas, "pallas_call", TRITON)

    def kernel(x, _, y):
        i = pallas.program_id(0)
        places, mask = wrong(i, x)
        values = triton.load(x.at[(i * 8 + jnp.arange(8)) % 12])
        triton.store(y.at[places], values, mask=mask)

    whole = pallas.BlockSpec((12,), lambda i: (0,))
    call = pallas.pallas_call(
        kernel, [jax.ShapeDtypeStruct((12,), jnp.float32)], grid=(2,), in_specs=[whole, whole],
        out_specs=[whole], compiler_params=triton.CompilerParams(), input_output_aliases={0: 0},
    )  # fmt: skip
    with pytest.raises(Exception, match=message):
        jax.block_until_ready(call(jnp.ones(12), jnp.ones(12)))

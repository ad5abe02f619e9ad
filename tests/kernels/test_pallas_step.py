"""The step by kernels of Pallas is the chain of the links too; here JAX interprets the kernels."""

import functools
import itertools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import fgsgd_jax as fg
from fgsgd_jax import kernels
from fgsgd_jax.kernels import _pallas, _pallas_gpu, _pallas_tpu, _scalars
from fgsgd_jax.kernels._scalars import ENTRYWISE, REDUCTIONS, NotScalar, Scalars
from tests.kernels.test_fused_step import (
    MOMENTA,
    RATE,
    TOLERANCES,
    assert_close,
    assert_far_weights_land,
    compare,
    links,
    weights,
)

pytestmark = pytest.mark.usefixtures("quickly_compiled")

# A component for every thread of a block, and some for a second block.
SECOND_BLOCK = (3, 3, 13, 11)
TRITON = "__gpu$xla.gpu.triton"
MOSAIC = "tpu_custom_call"

lowers_without_a_gpu = pytest.mark.skipif(
    jax.__version_info__ >= (0, 11), reason="since JAX 0.11, Pallas lowers only for a GPU it finds"
)


@pytest.fixture
def interpreted(monkeypatch):
    """Programs for the CPU take the kernels, and no program compiled otherwise is used."""
    jax.clear_caches()
    monkeypatch.setattr(kernels, "PALLAS", True)
    monkeypatch.setattr(_pallas, "GPUS", ("cpu",))
    monkeypatch.setattr(_pallas, "TPUS", ())
    monkeypatch.setattr(_pallas, "INTERPRET", True)
    yield
    jax.clear_caches()


@pytest.fixture
def launched(interpreted, monkeypatch):
    """The names of the kernels that are launched."""
    names, call = set(), _pallas.OneKernel.__call__

    def noted(self, *arguments):
        names.add(self.name)
        return call(self, *arguments)

    monkeypatch.setattr(_pallas.OneKernel, "__call__", noted)
    return names


def compare_new_weights(dtype, names, momentum):
    """Weights after two steps by `apply_gradients`, and by the chain of links."""
    params, spec = weights((3, 3, 4, 6), dtype, names, "PO")
    decay, nesterov = MOMENTA[momentum]
    chain = links(spec, decay, nesterov)
    fast = fg.fgsgd(RATE, spec, momentum=decay, nesterov=nesterov, euclidean="sgd")
    gradient = jax.tree.map(lambda leaf: jnp.cos(100 * leaf), params)
    step = jax.jit(lambda state, params: fg.apply_gradients(fast, gradient, state, params))
    state, (one, other) = fast.init(params), (params, params)
    of_chain, update = chain.init(params), jax.jit(chain.update)
    for _ in range(2):
        one, state = step(state, one)
        updates, of_chain = update(gradient, of_chain, other)
        other = optax.apply_updates(other, updates)
    assert_close(one, other, TOLERANCES[dtype])


def assert_rest_and_nan_are_kept():
    """A gradient of zeros moves no point; one that is not finite makes its group NaN."""
    params, spec = weights((3, 3, 4, 6), "float32", "four types", "kernel")
    gradient = jax.tree.map(jnp.zeros_like, params)
    gradient["w"] = gradient["w"].at[0, 2, 1, 2].set(jnp.nan).at[1, 1, 3, 5].set(jnp.inf)
    tx = fg.fgsgd(RATE, spec)
    update = np.array(jax.jit(tx.update)(gradient, tx.init(params), params)[0]["w"])
    for lane in ((1, 2), (3, 5)):
        assert np.isnan(update[:, :, *lane]).all()
        update[:, :, *lane] = 0
    assert not update.any()


# Every manifold, scheme, momentum and dtype, and numbers of lanes that fill no block, in few
# programs.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "dtype", "names", "scheme", "momentum"),
    [
        ((3, 3, 4, 6), "float64", "qr", "PO", "none"),
        (SECOND_BLOCK, "float32", "stiefel", "PI", "nesterov"),
        ((2, 4, 7, 11), "float64", "oblique", "kernel", "heavy ball"),
        ((3, 3, 1, 1), "bfloat16", "oblique", "layer", "nesterov"),
        (SECOND_BLOCK, "float64", "four types", "PIO", "heavy ball"),
        ((3, 3, 4, 6), "bfloat16", "stiefel", "PO", "heavy ball"),
    ],
)
def test_every_manifold_scheme_and_dtype(shape, dtype, names, scheme, momentum, launched):
    compare(shape, dtype, names, scheme, momentum, size=0.3)
    assert launched == {"measured", "moved"}


# Lanes that fill no block of a TPU in either direction, and numbers of the groups along both.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "dtype", "names", "scheme", "momentum"),
    [
        ((3, 3, 35, 130), "float32", "four types", "PIO", "none"),
        ((3, 3, 4, 6), "float64", "stiefel", "PI", "nesterov"),
        ((2, 4, 7, 11), "bfloat16", "oblique", "PO", "heavy ball"),
    ],
)
def test_kernels_for_tpus_take_the_same_step(
    shape, dtype, names, scheme, momentum, launched, monkeypatch
):
    monkeypatch.setattr(_pallas_gpu, "launch", _pallas_tpu.launch)
    compare(shape, dtype, names, scheme, momentum, size=0.3)
    assert launched == {"measured", "moved"}


@pytest.mark.parametrize("lanes", [(), (130,), (35, 6), (2, 3, 4)])
@pytest.mark.parametrize("form", [_pallas_gpu, _pallas_tpu])
def test_a_kernel_reads_numbers_of_every_shape(form, lanes, monkeypatch):
    monkeypatch.setattr(_pallas, "INTERPRET", True)
    monkeypatch.setattr(_pallas_gpu, "launch", form.launch)
    numbers = np.random.default_rng(0)
    x = np.asarray(numbers.normal(size=(2, 3, *lanes)), np.float32)
    along = [lanes, (1,) * len(lanes), lanes[:-1] + (1,) * bool(lanes), lanes[-1:]]
    given = [np.asarray(numbers.normal(size=shape), np.float32) for shape in along]
    whole = np.arange(np.prod(lanes, dtype=int), dtype=np.uint8).reshape(lanes)

    def combined(points, numbers):
        *factors, whole = numbers
        return points[0] * sum(factors) + (whole > 3), factors[0]

    arrays = jax.tree.map(jnp.asarray, ((x,), (*given, whole)))
    result, same = jax.jit(lambda *arrays: _pallas.OneKernel(combined, *arrays)("cpu", {}))(*arrays)
    np.testing.assert_allclose(result, x * sum(given) + (whole > 3), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(same, given[0])


@pytest.mark.slow
@pytest.mark.parametrize("form", [_pallas_gpu, _pallas_tpu])
@pytest.mark.parametrize(
    ("dtype", "names", "momentum"),
    [
        ("float32", "sphere", "none"),
        ("float32", "four types", "nesterov"),
        ("bfloat16", "stiefel", "heavy ball"),
    ],
)
def test_kernels_write_the_new_weights(form, dtype, names, momentum, launched, monkeypatch):
    monkeypatch.setattr(_pallas_gpu, "launch", form.launch)
    compare_new_weights(dtype, names, momentum)
    assert launched == {"measured", "moved"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "options"), [("oblique", {"momentum": 0.9, "nesterov": True}), ("stiefel", {})]
)
def test_a_step_that_no_group_shares_is_one_kernel(names, options, launched):
    params, spec = weights((3, 3, 4, 6), "float32", names, "PO")
    gradient = jax.tree.map(lambda leaf: jnp.cos(100 * leaf), params)
    momentum = [fg.trace_on_manifold(spec, 0.9, nesterov=True)] if options else []
    chain = optax.chain(
        fg.project_to_tangent(spec),
        *momentum,
        fg.scale_by_fgsgd(spec, per_component=True),
        optax.scale_by_learning_rate(RATE),
        fg.retract_updates(spec),
    )
    one, other = (
        jax.jit(tx.update)(gradient, tx.init(params), params)[0]["w"]
        for tx in (chain, fg.rsgd(RATE, spec, normalize=True, **options))
    )
    np.testing.assert_allclose(one, other, rtol=0, atol=2e-6)
    assert launched == {"at_once"}


@pytest.mark.slow
def test_adaptive_steps_of_scaled_weights_are_those_of_passes_over_arrays(launched, monkeypatch):
    params = {"w": jax.random.normal(jax.random.key(0), (3, 3, 4, 6))}
    spec = fg.collection(params, ("w", fg.pom("PO", (fg.Oblique(), fg.Sphere()), scale=0.3)))
    params = fg.project(params, spec)
    gradient = jax.tree.map(lambda leaf: jnp.cos(100 * leaf), params)

    def updated():
        tx = fg.riemannian_adam(0.1, spec)
        state = tx.init(params)

        def of_size(size):
            return tx.update(jax.tree.map(lambda g: size * g, gradient), state, params)[0]["w"]

        return jax.jit(lambda size: jax.jvp(of_size, (size,), (1.0,)))(jnp.float32(1e-8))

    by_kernels = updated()
    assert launched == {"norms", "at_once"}
    launched.clear()
    monkeypatch.setattr(kernels, "PALLAS", False)
    for one, other in zip(updated(), by_kernels, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-6)
    assert not launched


@pytest.fixture(params=["interpreter", "gpu"])
def maximum(request, monkeypatch):
    """The interpreter keeps NaN; the instruction of a GPU returns the other number."""
    if request.param == "gpu":
        monkeypatch.setattr(_scalars, "PLATFORM_MAX", jnp.fmax)
        monkeypatch.setattr(_scalars, "PLATFORM_MIN", jnp.fmin)


@pytest.mark.slow
@pytest.mark.usefixtures("interpreted", "maximum")
def test_points_at_rest_stay_and_groups_without_a_direction_become_nan():
    assert_rest_and_nan_are_kept()


@pytest.mark.slow
@pytest.mark.parametrize("names", ["oblique", "four types"])
def test_long_gradients_lead_weights_far_off_onto_their_manifolds(names, launched):
    assert_far_weights_land(names)
    assert launched == {"measured", "moved"}


@pytest.mark.slow
def test_the_update_is_differentiable_and_maps_over_batches(launched):
    params, spec = weights((3, 3, 2, 3), "float32", "oblique", "PO")
    gradient = jax.tree.map(lambda leaf: jnp.cos(100 * leaf), params)
    tx = fg.fgsgd(RATE, spec)
    state = tx.init(params)

    @jax.jit
    def moved(size):
        updates, _ = tx.update(jax.tree.map(lambda g: size * g, gradient), state, params)
        return updates["w"]

    at, h = jnp.float32(0.5), 1e-2
    both = jax.jit(jax.vmap(moved))(jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(both[0], moved(at), atol=1e-6)
    assert launched == {"measured", "moved"}
    backward = jax.jit(jax.grad(lambda size: jnp.sum(moved(size) ** 2)))(at)
    squares = [float(jnp.sum(moved(at + side * h) ** 2)) for side in (1, -1)]
    np.testing.assert_allclose(backward, (squares[0] - squares[1]) / (2 * h), rtol=1e-2)


def launches(shape, request, *, in_place=False):
    """Whether the step of a weight is traced with kernels."""
    params = {"w": jnp.zeros(shape)}
    spec = fg.collection(params, ("w", request))
    tx = fg.fgsgd(RATE, spec)
    state = jax.eval_shape(tx.init, params)
    step = functools.partial(fg.apply_gradients, tx) if in_place else tx.update
    return "pallas_call" in str(jax.make_jaxpr(step)(params, state, params))


def test_other_weights_keep_their_form(interpreted):
    mixture = (fg.Sphere(), fg.Stiefel())
    assert launches((3, 3, 4, 6), fg.pom("PO", mixture))
    of_matrices = fg.Component(rows=1, columns=2, outputs=0)
    assert launches((3, 3, 6), fg.pom("PO", fg.Oblique(), component=fg.Component(0, 1, outputs=2)))
    for shape, request in (
        ((3, 3, 4, 6), fg.pom("PO", fg.Sphere())),  # XLA adds its update in the same pass
        ((3, 3, 4, 6), fg.pom("PO", fg.Stiefel(retraction="cayley"))),  # no scalars
        ((7, 7, 4, 6), fg.pom("PO", fg.Oblique())),  # too large for registers
        ((6, 3, 3), fg.pom("PO", fg.Oblique(), component=of_matrices)),  # to be transposed
    ):
        assert not launches(shape, request), request
    assert launches((3, 3, 4, 6), fg.pom("PO", fg.Sphere()), in_place=True)


@pytest.mark.parametrize(
    ("platform", "capability", "taken"),
    [
        ("cpu", None, ()),
        ("gpu", "7.5", ()),  # Triton has no code for Turing
        ("gpu", "8.0", ("cuda",)),
        ("gpu", "12.0", ("cuda",)),
        ("gpu", "gfx942", ()),
        ("tpu", None, ("tpu",)),
    ],
)
def test_by_default_they_are_taken_where_a_device_can_run_them(
    platform, capability, taken, monkeypatch
):
    assert kernels.PALLAS is None
    assert not launches((3, 3, 4, 6), fg.pom("PO", fg.Stiefel()))
    device = types.SimpleNamespace(platform=platform)
    if capability is not None:
        device.compute_capability = capability
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert _pallas.platforms(None) == taken
    jax.clear_caches()
    assert launches((3, 3, 4, 6), fg.pom("PO", fg.Stiefel())) == bool(taken)
    monkeypatch.setattr(kernels, "PALLAS", False)
    assert not launches((3, 3, 4, 6), fg.pom("PO", fg.Stiefel()))
    jax.clear_caches()


def test_they_are_traced_for_devices_that_are_not_here_only_if_they_are_asked_for(monkeypatch):
    monkeypatch.setattr(kernels, "PALLAS", True)
    assert _pallas.platforms(True) == ("cuda", "rocm", "tpu")
    assert launches((3, 3, 4, 6), fg.pom("PO", fg.Stiefel()))


@lowers_without_a_gpu
@pytest.mark.parametrize("platform", ["cuda", "rocm"])
def test_a_program_exported_for_a_gpu_holds_both_kernels(platform, monkeypatch):
    monkeypatch.setattr(kernels, "PALLAS", True)
    params, spec = weights((3, 3, 2, 3), "float32", "stiefel", "PO")
    tx = fg.fgsgd(RATE, spec, momentum=0.9)
    shapes = jax.eval_shape(lambda: (params, tx.init(params), params))
    assert exported(tx.update, platform, *shapes).count(f"@{TRITON}(") == 2


@lowers_without_a_gpu
@pytest.mark.parametrize("names", ["sphere", "four types"])
def test_a_program_exported_for_a_tpu_holds_both_kernels(names, monkeypatch):
    monkeypatch.setattr(kernels, "PALLAS", True)
    params, spec = weights((3, 3, 2, 3), "float32", names, "PO")
    tx = fg.fgsgd(RATE, spec, momentum=0.9)
    shapes = jax.eval_shape(lambda: (params, tx.init(params), params))
    step = functools.partial(fg.apply_gradients, tx)
    assert exported(step, "tpu", *shapes).count(f"@{MOSAIC}(") == 2


def exported(function, platform, *shapes):
    """The program of a function for a platform."""
    unchecked = [jax.export.DisabledSafetyCheck.custom_call(name) for name in (TRITON, MOSAIC)]
    export = jax.export.export(jax.jit(function), platforms=[platform], disabled_checks=unchecked)
    return export(*shapes).mlir_module()


@pytest.mark.parametrize("axis", [0, 1])
def test_scalar_operations_are_the_function_of_every_point(axis):
    x = np.asarray(np.random.default_rng(0).normal(size=(3, 2, 5)), np.float32)

    def function(x, number):
        rows = jnp.stack([x[0] + x[1], x[1] * number, jnp.where(x[0] > 0, x[2], -1)], axis)
        ends = jnp.concatenate([x[::2], x[:2, 1, None] * jnp.ones(2)], axis=1 - axis)
        return rows.T, jnp.flip(ends, 1), jnp.max(jnp.abs(x), 0), jnp.sum(x * np.float32([3, 4]))

    number = np.arange(5, dtype=np.float32)
    scalars = Scalars(function, *(jax.ShapeDtypeStruct(s, jnp.float32) for s in ((3, 2), ())))
    results = scalars((5,), list(x.reshape(6, 5)), [number])
    for result, like, entries in zip(
        jax.vmap(function, (-1, 0), -1)(x, number), scalars.outputs, results, strict=True
    ):
        assert all(entry.dtype == like.dtype for entry in entries)
        np.testing.assert_allclose(jnp.reshape(jnp.stack(entries), result.shape), result, rtol=1e-6)


def every_operation(points, numbers):
    (x,), (n,) = points, numbers
    low, whole = x < 1, lax.convert_element_type(x, jnp.int32)
    terms = [
        lax.abs(x), x + n, x / n, lax.clamp(-1.0, x, 2.0), lax.cos(x), lax.exp(x), x**3, lax.log(x),
        lax.max(x, n * x), lax.min(x, n * x), x * x, -x, lax.pow(x, x), lax.rsqrt(x),
        lax.select(low, x, -x), lax.sin(x), lax.sqrt(x), lax.square(x), x - n,
    ]  # fmt: skip
    masks = [x < n, x > n, x <= n, x >= n, x == n, x != n, ~low, low & lax.is_finite(x), low | low]
    terms += [jnp.where(mask, x, 0) for mask in (*masks, whole > 1, jnp.any(low), jnp.all(low))]
    return (sum(map(jnp.sum, terms)) + jnp.max(x) + jnp.min(x),)


@pytest.mark.usefixtures("maximum")
def test_nan_is_kept():
    entries = np.float32([1, np.nan, 2, np.nan])

    def function(x, y):
        pairs = jnp.maximum(x, y), jnp.minimum(x, y), jnp.clip(x, y, 3 * y)
        return *pairs, jnp.max(x), jnp.min(x), jnp.where(jnp.isnan(x), 7, x)

    for x, y in itertools.product(entries, entries):
        shapes = [jax.ShapeDtypeStruct((2,), jnp.float32)] * 2
        given = [[jnp.full(1, x), jnp.full(1, np.float32(number))] for number in (1, y)]
        found = Scalars(function, *shapes)((1,), *given)
        one, other = np.float32([x, 1]), np.float32([x, y])
        expected = (
            np.maximum(one, other), np.minimum(one, other), np.clip(one, other, 3 * other),
            one.max(), one.min(), np.where(np.isnan(one), 7, one),
        )  # fmt: skip
        for entries_of_one, values in zip(found, expected, strict=True):
            np.testing.assert_array_equal(np.ravel(entries_of_one), np.ravel(values))


@lowers_without_a_gpu
def test_every_operation_that_is_taken_can_be_lowered():
    shape = jax.ShapeDtypeStruct((2, 2, 7), jnp.float32), jax.ShapeDtypeStruct((7,), jnp.float32)
    used = str(jax.make_jaxpr(every_operation)((jnp.ones((2, 2)),), (1.0,)))
    assert all(re.search(rf"\b{name}\b", used) for name in {*ENTRYWISE, *REDUCTIONS})
    for platform in ("cuda", "rocm", "tpu"):
        kernel = functools.partial(_launched, every_operation, platform)
        exported(kernel, platform, *shape)


def _launched(function, platform, x, number):
    return _pallas.OneKernel(function, (x,), (number,))(platform, {})


@pytest.mark.parametrize(
    "function", [jnp.linalg.inv, lambda x: x @ x, lambda x: jnp.cumsum(x, 0), jnp.sort]
)
def test_other_operations_are_refused(function):
    with pytest.raises(NotScalar):
        Scalars(function, jax.ShapeDtypeStruct((3, 3), jnp.float32))

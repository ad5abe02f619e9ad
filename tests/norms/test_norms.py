"""Norms: against NumPy's singular values, loops over groups, and dense operators."""

import functools
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance_helpers import to_slices
from flax import nnx

import fgsgd_jax as fg
from fgsgd_jax import norms

pytestmark = pytest.mark.usefixtures("quickly_compiled")

RNG = np.random.default_rng(0)
TOLERANCE = {"float32": 1e-6, "float64": 1e-13}
spectral = jax.jit(norms.spectral)


def largest_singular_value(x) -> np.ndarray:
    """By NumPy, of `(rows, columns, *lanes)`."""
    x = np.moveaxis(np.asarray(x, np.float64), (0, 1), (-2, -1))
    return np.linalg.svd(x, compute_uv=False)[..., 0]


def three_norms(matrix) -> np.ndarray:
    """Frobenius, spectral and 2→1 of one matrix, by NumPy."""
    matrix = np.asarray(matrix, np.float64)
    row_norms = np.sqrt((matrix**2).sum(axis=1))
    return np.array(
        [np.sqrt((matrix**2).sum()), np.linalg.svd(matrix, compute_uv=False)[0], row_norms.sum()]
    )


def orthonormal(count: int, size: int) -> np.ndarray:
    return np.linalg.qr(RNG.standard_normal((count, size, size)))[0]


def with_gap(gap: float) -> np.ndarray:
    """Matrices (4, 4, 300) whose two largest singular values are 1 and 1 − gap."""
    x = (orthonormal(300, 4) * np.array([1, 1 - gap, 1 - 2 * gap, 0.3])) @ orthonormal(300, 4)
    return np.moveaxis(x, 0, -1)


# --- matrices ------------------------------------------------------------------------------------

SHAPES = [(3, 3, 40, 2500), (1, 5, 7), (5, 1, 7), (2, 2, 1000), (3, 700, 4), (40, 30)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_norms_of_matrices_agree_with_numpy(dtype):
    with jax.enable_x64(dtype == "float64"):
        for shape in SHAPES:
            x = RNG.standard_normal(shape).astype(dtype)
            got = norms.norms_of(x)
            assert {str(norm.dtype) for norm in got} == {dtype}
            expected = (
                np.sqrt((np.float64(x) ** 2).sum((0, 1))),
                largest_singular_value(x),
                np.sqrt((np.float64(x) ** 2).sum(1)).sum(0),
            )
            for norm, reference in zip(got, expected, strict=True):
                np.testing.assert_allclose(norm, reference, rtol=TOLERANCE[dtype], err_msg=shape)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_nearly_equal_singular_values_cost_no_digit(dtype):
    with jax.enable_x64(dtype == "float64"):
        for gap in (0, 1e-12, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1):
            x = with_gap(gap).astype(dtype)
            np.testing.assert_allclose(
                spectral(x), largest_singular_value(x), rtol=TOLERANCE[dtype], err_msg=f"{gap}"
            )


def test_singular_values_that_are_equal_to_the_last_bit():
    for size in (2, 3, 4, 40):
        np.testing.assert_allclose(spectral(3 * np.eye(size)), 3, rtol=1e-6)
    np.testing.assert_allclose(spectral(np.diag([2.0, 2.0, 1.0, 0.0])), 2, rtol=1e-6)


def test_scales_out_of_range_of_squares():
    x = np.moveaxis(orthonormal(100, 4), 0, -1)
    scales = np.logspace(-30, 30, 100)  # every lane its own
    x32 = (x * scales).astype(np.float32)
    for norm, reference in zip(norms.norms_of(x32), [2.0, 1.0, 4.0], strict=True):
        np.testing.assert_allclose(norm, reference * scales, rtol=1e-6)


def test_zero_infinite_and_missing_numbers():
    x = np.zeros((3, 3, 4), np.float32)
    x[1, 1] = [0, 2, np.inf, np.nan]
    for norm in norms.norms_of(x):
        np.testing.assert_array_equal(norm, [0, 2, np.inf, np.nan])


def test_low_precision_is_computed_in_float32():
    x = jnp.asarray(RNG.standard_normal((3, 3, 50)), jnp.bfloat16)
    for norm in norms.norms_of(x):
        assert norm.dtype == jnp.float32
    np.testing.assert_allclose(spectral(x), largest_singular_value(np.float32(x)), rtol=1e-6)


# --- Table 2 -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_table_2_of_unit_components():
    """Rows 1 and 2 of Table 2: spectral σ, 1, σ and Frobenius 1, √B, √B on Sp, St, Ob."""
    field = (5, 3)
    columns = field[1]
    params = {"w": jnp.asarray(RNG.standard_normal((*field, 5, 6)), jnp.float32)}
    placed = {}
    for manifold in (fg.Sphere(), fg.Stiefel(), fg.Oblique()):
        spec = fg.collection(params, ("w", fg.pom("PO", manifold, component="slice")))
        weight = fg.project(params, spec)["w"]
        placed[type(manifold)] = norms.component_norms(weight, spec["w"])
        sigma = largest_singular_value(weight)
        expected = np.ones_like(sigma) if manifold == fg.Stiefel() else sigma
        np.testing.assert_allclose(placed[type(manifold)].spectral, expected, rtol=2e-6)
    for manifold, expected in (
        (fg.Sphere, 1),
        (fg.Stiefel, columns**0.5),
        (fg.Oblique, columns**0.5),
    ):
        np.testing.assert_allclose(placed[manifold].frobenius, expected, rtol=2e-6)


# --- groups and layers ----------------------------------------------------------------------------

HEADS = fg.Component(rows=(0,), columns=(2,), stack=(1,))
EXPERTS = fg.Component(rows=(1,), inputs=(3,), outputs=(2,), stack=(0,))
CASES = {
    "slices": ((3, 2, 4, 6), "slice", ["PI", "PO", "PIO", "layer", "kernel"]),
    "filters": ((3, 3, 2, 5), "filter", ["PIO", "layer"]),
    "matrix": ((6, 4), "matrix", ["layer"]),
    "heads": ((5, 2, 3), HEADS, ["layer"]),
    "experts": ((2, 3, 4, 5), EXPERTS, ["PI", "PIO"]),
}
PAIRS = [(name, scheme) for name, (_, _, schemes) in CASES.items() for scheme in schemes]


@functools.cache
def placed(name: str, scheme: str):
    shape, component, _ = CASES[name]
    groups = 3 if scheme == "PIO" else None
    request = fg.pom(scheme, fg.Sphere(), component=component, groups=groups)
    return fg.collection({"w": jax.ShapeDtypeStruct(shape, jnp.float32)}, ("w", request), seed=5)


def components_by_group(weight: np.ndarray, leaf_spec: fg.LeafSpec) -> list[list[np.ndarray]]:
    """The component matrices of every group, one by one as the table of schemes says."""
    component, stack = leaf_spec.component, leaf_spec.component.stack
    sizes = [range(weight.shape[axis]) for axis in component.lanes]
    drawn = leaf_spec.draw().groups
    groups: dict = {}
    for lane in itertools.product(*sizes):
        index = dict(zip(component.lanes, lane, strict=True))
        matrix = weight[tuple(index.get(axis, slice(None)) for axis in range(weight.ndim))]
        left = [axis for axis in range(weight.ndim) if axis not in index]
        order = [left.index(axis) for axis in component.rows + component.columns]
        rows = int(np.prod([weight.shape[axis] for axis in component.rows]))
        matrix = matrix.transpose(order).reshape(rows, -1)
        own = [index[axis] for axis in stack]
        key = {
            "PI": own + [index[axis] for axis in component.inputs],
            "PO": own + [index[axis] for axis in component.outputs],
            "PIO": [] if drawn is None else [drawn[lane]],
            "layer": own,
            "kernel": own + [index[axis] for axis in component.inputs + component.outputs],
        }[leaf_spec.scheme]
        groups.setdefault(tuple(key), []).append(matrix)
    return [groups[key] for key in sorted(groups)]


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize(("name", "scheme"), PAIRS)
def test_norms_of_groups_are_those_of_components_side_by_side(name, scheme):
    leaf_spec = placed(name, scheme)["w"]
    weight = RNG.standard_normal(leaf_spec.shape).astype(np.float32)
    groups = components_by_group(weight, leaf_spec)
    assert len(groups) == leaf_spec.groups * leaf_spec.stacked
    expected = np.stack([three_norms(np.hstack(group)) for group in groups], axis=1)
    got = norms.group_norms(weight, leaf_spec)
    np.testing.assert_allclose(np.stack(got), expected, rtol=2e-6)

    alone = np.array([three_norms(matrix) for group in groups for matrix in group])
    got = np.stack([norm.ravel() for norm in norms.component_norms(weight, leaf_spec)], axis=1)
    np.testing.assert_allclose(np.sort(got, axis=0), np.sort(alone, axis=0), rtol=2e-6)


def test_components_keep_their_places():
    leaf_spec = placed("slices", "PO")["w"]
    weight = RNG.standard_normal(leaf_spec.shape).astype(np.float32)
    got = norms.component_norms(weight, leaf_spec).spectral
    expected = np.linalg.svd(to_slices(weight), compute_uv=False)[..., 0]
    np.testing.assert_allclose(got, expected, rtol=2e-6)


@pytest.mark.sweep(fast=2)
@pytest.mark.parametrize("name", CASES)
def test_norms_of_layers_are_those_of_outputs_by_inputs(name):
    leaf_spec = placed(name, CASES[name][2][0])["w"]
    weight = RNG.standard_normal(leaf_spec.shape).astype(np.float32)
    matrices = {
        "slices": lambda: [weight.reshape(-1, 6).T],
        "filters": lambda: [weight.reshape(-1, 5).T],
        "matrix": lambda: [weight.T],
        "heads": lambda: [weight[:, head].T for head in range(2)],
        "experts": lambda: [weight[e].transpose(1, 0, 2).reshape(4, -1) for e in range(2)],
    }[name]()
    expected = np.stack([three_norms(matrix) for matrix in matrices], axis=1)
    np.testing.assert_allclose(np.stack(norms.layer_norms(weight, leaf_spec)), expected, rtol=2e-6)


def test_a_weight_without_a_layer_is_one_matrix():
    weight = RNG.standard_normal((2, 3, 4)).astype(np.float32)
    expected = three_norms(weight.reshape(6, 4).T)[:, None]
    for of in (norms.component_norms, norms.group_norms, norms.layer_norms):
        np.testing.assert_allclose(np.stack(of(weight, None)), expected, rtol=2e-6)


@pytest.mark.slow
@hypothesis.given(
    pair=st.sampled_from(PAIRS), seed=st.integers(0, 2**32 - 1), spread=st.floats(0, 8)
)
@hypothesis.settings(max_examples=120, deadline=None, derandomize=True)
def test_remark_1_a_group_is_at_least_the_geometric_mean_of_its_components(pair, seed, spread):
    leaf_spec = placed(*pair)["w"]
    rng = np.random.default_rng(seed)
    # Entries over many orders of magnitude, some rows and components zero.
    weight = rng.standard_normal(leaf_spec.shape) * np.exp(
        spread * rng.standard_normal(leaf_spec.shape)
    )
    weight = (weight * (rng.random(leaf_spec.shape) > 0.1)).astype(np.float32)
    got = np.stack(norms.group_norms(weight, leaf_spec), axis=1)
    for of_group, members in zip(got, components_by_group(weight, leaf_spec), strict=True):
        with np.errstate(divide="ignore"):
            logs = np.log([three_norms(member) for member in members])
        assert (of_group >= np.exp(logs.mean(axis=0)) * (1 - 2e-6)).all()


# --- networks ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_products_over_a_network_are_sums_of_logarithms():
    params = {
        "conv": RNG.standard_normal((3, 3, 4, 500)).astype(np.float32) * np.float32(1e-20),
        "head": RNG.standard_normal((6, 5)).astype(np.float32),
        "bias": np.ones(5, np.float32),
        "steps": np.ones((2, 2), np.int32),
    }
    spec = fg.collection(params, ("conv", fg.pom("PO", fg.Sphere())), default=None)
    network = norms.network_norms(params, spec)
    assert list(network.groups) == ["conv", "head"]
    slices = to_slices(params["conv"])
    of_groups = [three_norms(np.hstack(list(slices[:, channel]))) for channel in range(500)]
    of_head = three_norms(params["head"].T)
    expected = np.log(of_groups).sum(axis=0) + np.log(of_head)
    assert (expected < -20000).all()  # the product itself is 0 in float64
    np.testing.assert_allclose(np.stack(network.log_groups), expected, rtol=1e-5)
    of_conv = three_norms(params["conv"].reshape(-1, 500).T)
    expected = np.log(of_conv) + np.log(of_head)
    np.testing.assert_allclose(np.stack(network.log_layers), expected, rtol=1e-5)


def test_all_norms_are_jitted_and_of_the_weights_as_given():
    params = {"w": RNG.standard_normal((3, 3, 4, 6)).astype(np.float32)}
    spec = fg.collection(params)
    jitted = jax.jit(lambda params: norms.network_norms(params, spec))
    plain, doubled = jitted(params), jitted({"w": 2 * params["w"]})
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(two, 2 * one, rtol=1e-6),
        (plain.components, plain.groups, plain.layers),
        (doubled.components, doubled.groups, doubled.layers),
    )


def test_what_has_no_norms_is_named():
    with pytest.raises(ValueError, match=r"shape \(5,\) is no matrix"):
        norms.layer_norms(jnp.ones(5))
    params = {"bias": jnp.ones(5)}
    with pytest.raises(ValueError, match="no weights"):
        norms.network_norms(params, fg.collection(params))
    other = fg.collection({"w": jnp.ones((3, 3, 2, 2))})
    with pytest.raises(ValueError, match="no leaf 'bias'"):
        norms.network_norms(params, other)


# --- convolutions --------------------------------------------------------------------------------


def dense_operator(
    kernel, size, stride=1, padding="SAME", dilation=1, groups=1, circular=False
) -> np.ndarray:
    """The matrix of a convolution on size × size maps, filled entry by entry."""
    reach = (kernel.shape[0] - 1) * dilation
    if circular:
        out, low = size, reach // 2
    elif padding == "SAME":
        out = -(-size // stride)
        low = max((out - 1) * stride + reach + 1 - size, 0) // 2
    else:
        out, low = (size - reach - 1) // stride + 1, 0
    inputs, outputs = kernel.shape[2] * groups, kernel.shape[3]
    matrix = np.zeros((out, out, outputs, size, size, inputs))
    per_group = outputs // groups
    for i, j, a, b in itertools.product(*map(range, (out, out, *kernel.shape[:2]))):
        y, x = i * stride + a * dilation - low, j * stride + b * dilation - low
        if circular:
            y, x = y % size, x % size
        if not (0 <= y < size and 0 <= x < size):
            continue
        for d, c in itertools.product(range(outputs), range(kernel.shape[2])):
            matrix[i, j, d, y, x, d // per_group * kernel.shape[2] + c] += kernel[a, b, c, d]
    return matrix.reshape(out * out * outputs, -1)


CONVOLUTIONS = {
    "strided": ((3, 3, 2, 3), 7, {"stride": 2}),
    "valid, dilated": ((3, 3, 2, 3), 7, {"padding": "VALID", "dilation": 2}),
    "grouped": ((3, 3, 2, 4), 5, {"groups": 2}),
    "circular": ((3, 3, 2, 3), 5, {"circular": True}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_the_norm_of_a_convolution_is_that_of_its_dense_operator(case):
    check_convolution(*CONVOLUTIONS[case], np.float32, rtol=2e-6)


@pytest.mark.slow
def test_the_norm_of_a_convolution_in_float64():
    with jax.enable_x64(True):
        check_convolution(*CONVOLUTIONS["strided"], np.float64, rtol=1e-12)


def check_convolution(shape, size, how, dtype, rtol):
    kernel = RNG.standard_normal(shape).astype(dtype)
    expected = np.linalg.svd(dense_operator(kernel, size, **how), compute_uv=False)[0]
    got = norms.convolution_norm(
        kernel,
        (size, size),
        strides=how.get("stride", 1),
        padding="CIRCULAR" if "circular" in how else how.get("padding", "SAME"),
        kernel_dilation=how.get("dilation", 1),
        feature_group_count=how.get("groups", 1),
    )
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected, rtol=rtol)
    reshaped = norms.layer_norms(kernel).spectral[0]
    assert abs(reshaped / expected - 1) > 0.01  # another number than that of the kernel's matrix


def test_the_dense_operator_of_this_test_is_that_of_flax():
    for how in ({"stride": 2}, {"dilation": 2}, {"circular": True}):
        layer = nnx.Conv(
            2, 3, (3, 3), strides=how.get("stride", 1), kernel_dilation=how.get("dilation", 1),
            padding="CIRCULAR" if "circular" in how else "SAME", use_bias=False, rngs=nnx.Rngs(0),
        )  # fmt: skip
        x = RNG.standard_normal((5, 5, 2)).astype(np.float32)
        kernel = np.asarray(layer.kernel[...])
        expected = dense_operator(kernel, 5, **how) @ x.ravel()
        np.testing.assert_allclose(np.asarray(layer(x)).ravel(), expected, atol=1e-5)


def test_a_transposed_convolution_has_the_norm_of_its_jacobian():
    layer = nnx.ConvTranspose(2, 3, (3, 3), strides=2, use_bias=False, rngs=nnx.Rngs(0))
    jacobian = jax.jit(jax.jacobian(layer))(jnp.zeros((4, 4, 2)))
    expected = np.linalg.svd(np.asarray(jacobian).reshape(-1, 32), compute_uv=False)[0]
    got = norms.convolution_norm(
        layer.kernel[...], (4, 4), input_dilation=2, padding=((2, 1), (2, 1))
    )
    np.testing.assert_allclose(got, expected, rtol=2e-6)


@pytest.mark.slow
def test_a_large_circular_convolution_agrees_with_its_fourier_transform():
    kernel = RNG.standard_normal((3, 3, 16, 16)).astype(np.float32)
    symbols = np.fft.fft2(kernel, (32, 32), axes=(0, 1))
    expected = np.linalg.svd(symbols, compute_uv=False).max()
    got = norms.convolution_norm(kernel, (32, 32), padding="CIRCULAR")
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_a_box_filter_on_a_line_has_the_norm_of_its_closed_form():
    # Eigenvalues of the tridiagonal matrix of ones: 1 + 2·cos(πk/(n + 1)).
    for scale in (1, 1e30, 1e-30):
        got = norms.convolution_norm(np.full((3, 1, 1), np.float32(scale)), (50,))
        np.testing.assert_allclose(got, scale * (1 + 2 * np.cos(np.pi / 51)), rtol=1e-6)
    assert norms.convolution_norm(np.zeros((3, 1, 1), np.float32), (50,)) == 0


def test_a_misspelt_padding_is_told_beside_those_there_are():
    with pytest.raises(ValueError, match=r"'SAME', 'VALID', 'CIRCULAR'.*not 'SAM'"):
        norms.convolution_norm(jnp.ones((3, 3, 2, 2)), (8, 8), padding="SAM")


def test_a_map_with_other_axes_than_the_kernel_is_refused():
    with pytest.raises(ValueError, match=r"has 3\. Give"):
        norms.convolution_norm(jnp.ones((3, 3, 2, 2)), (8, 8, 2))

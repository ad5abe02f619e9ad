"""What is no array, or another one, in the place of an array is told in one sentence of ours."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgsgd_jax as fg
from fgsgd_jax import bounds, norms

W = jnp.array([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
TREE = {"w": W, "b": jnp.ones(2)}
SPEC = fg.collection(TREE, ("w", fg.pom("layer", fg.Stiefel())), default=None)
LOGITS, LABELS = jnp.array([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]]), jnp.array([1, 0])
NORMS = {"w": norms.norms_of(jnp.eye(4)[..., None])}
BOUNDS = bounds.log_bounds(NORMS, samples=100, width=4)

ONE_ARRAY = {
    "frobenius": norms.frobenius,
    "spectral": norms.spectral,
    "two_to_one": norms.two_to_one,
    "norms_of": norms.norms_of,
    "layer_norms": norms.layer_norms,
    "group_norms": lambda x: norms.group_norms(x, SPEC["w"]),
    "component_norms": lambda x: norms.component_norms(x, SPEC["w"]),
    "group_matrices": lambda x: norms.group_matrices(x, SPEC["w"]),
    "convolution_norm": lambda x: norms.convolution_norm(x, (5, 5)),
    "logits": lambda x: bounds.margins(x, LABELS),
    "labels": lambda x: bounds.margins(LOGITS, x),
    "inputs": lambda x: bounds.normalized_margins(LOGITS, LABELS, x, BOUNDS),
    "a norm": lambda x: bounds.log_bounds({"w": norms.Norms(x, x, x)}, samples=9, width=4),
}
NO_ARRAY = {
    "text": ("text", "got 'text'"),
    "None": (None, "got None"),
    "a list of text": (["a", "b"], r"got \['a', 'b'\]"),
    "lists of unequal lengths": ([[1.0], [1.0, 2.0]], r"got \[\[1\.0\], \[1\.0, 2\.0\]\]"),
    "an array of objects": (np.array([None, "a"], object), r"got .*shape \(2,\)"),
    "a tree": (TREE, r"got a tree with the leaves 'b', 'w'; give one of them"),
    "a shape": (jax.ShapeDtypeStruct((3, 2), "float32"), r"got the shape \(3, 2\) without values"),
    "a manifold": (fg.Sphere(), r"got Sphere\(\)"),
    "a key": (jax.random.key(0), "got dtype key"),
    "truth values": (jnp.ones((3, 2), bool), "got dtype bool"),
    "complex": (jnp.ones((3, 2), jnp.complex64), "got dtype complex64"),
    "float8": (jnp.ones((3, 2), jnp.float8_e4m3fn), "got dtype float8"),
}


@pytest.mark.parametrize("kind", NO_ARRAY)
@pytest.mark.parametrize("use", ONE_ARRAY)
def test_what_is_no_array_is_told_with_what_is_needed(use, kind):
    wrong, said = NO_ARRAY[kind]
    numbers = "(real|real floating-point|whole) numbers"
    with pytest.raises(TypeError, match=rf"must be an array .*of {numbers}, {said}") as raised:
        ONE_ARRAY[use](wrong)
    assert len(re.findall(r"[.?!](?:\s|$)", str(raised.value))) == 1


@pytest.mark.parametrize("use", ["frobenius", "spectral", "two_to_one", "norms_of"])
@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (3, 0)])
def test_an_array_of_other_axes_is_told_with_the_axes_that_are_needed(use, shape):
    said = rf"\(rows, columns, \*lanes\) .*, got an array of shape {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=said):
        ONE_ARRAY[use](jnp.zeros(shape))


def test_lists_whole_numbers_and_traced_arrays_are_taken():
    for x in (np.asarray(W), W.tolist(), W.astype(int), W.astype("bfloat16")):
        assert norms.frobenius(x) == 5
        assert jax.tree.map(float, norms.norms_of(x)) == (5, 4, 7)
    assert jax.jit(norms.norms_of)(W).two_to_one == 7
    assert jax.jit(bounds.margins)(LOGITS, LABELS).tolist() == [1, -2]
    assert jax.vmap(norms.spectral, in_axes=2)(jnp.stack([W, 2 * W], axis=2)).tolist() == [4, 8]
    with pytest.raises(TypeError, match="logits must be an array of real numbers, got dtype bool"):
        jax.jit(bounds.margins)(LOGITS > 1, LABELS)


# --- margins -------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0], [0, 255]])
def test_a_label_that_is_no_class_is_refused(labels):
    said = f"whole numbers from 0 to 2.*got labels from {min(labels)} to {max(labels)}"
    with pytest.raises(ValueError, match=said):
        bounds.margins(LOGITS, jnp.array(labels))


def test_swapped_arguments_of_margins_are_told():
    with pytest.raises(TypeError, match="labels must be an array of whole numbers, got dtype flo"):
        bounds.margins(LABELS, LOGITS)
    with pytest.raises(TypeError, match=r"bounds must be the bounds .*got .*shape \(2, 3\)"):
        bounds.normalized_margins(BOUNDS, LABELS, LOGITS, LOGITS)


# --- bounds --------------------------------------------------------------------------------------

NETWORK = norms.network_norms(TREE, SPEC)
TAKE_NUMBERS = {
    "log_bounds": lambda **numbers: bounds.log_bounds(NORMS, **numbers),
    "bounds_of": lambda **numbers: bounds.bounds_of(NETWORK, **numbers),
    "network_bounds": lambda **numbers: bounds.network_bounds(TREE, SPEC, **numbers),
}


@pytest.mark.parametrize("use", TAKE_NUMBERS)
@pytest.mark.parametrize("name", ["samples", "width"])
@pytest.mark.parametrize("wrong", ["9", None, True, 1j, [9], np.nan, np.inf, 0.5], ids=repr)
def test_a_number_of_a_bound_is_named(use, name, wrong):
    if use == "network_bounds" and name == "width" and wrong is None:
        pytest.skip("the default")
    with pytest.raises((TypeError, ValueError), match=rf"{name} (must be a number|of at least 1)"):
        TAKE_NUMBERS[use](**{"samples": 9, "width": 4, name: wrong})


@pytest.mark.parametrize("wrong", ["text", None, W, [W], NETWORK, TREE, {"w": (1.0, 1.0, 1.0)}])
def test_something_else_than_norms_by_layer_is_told(wrong):
    said = r"(must be a dictionary with the Norms|must be fgsgd_jax\.norms\.Norms).*network_norms"
    with pytest.raises(TypeError, match=said):
        bounds.log_bounds(wrong, samples=9, width=4)


@pytest.mark.parametrize("wrong", ["text", None, NORMS, TREE, SPEC])
def test_something_else_than_the_norms_of_a_network_is_told(wrong):
    with pytest.raises(TypeError, match=r"those of a network, network_norms\(params, spec\), got"):
        bounds.bounds_of(wrong, samples=9, width=4)


# --- convolutions --------------------------------------------------------------------------------

KERNEL = jnp.ones((3, 3, 2, 4))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"map_shape": "55"}, "map_shape must be a tuple of whole numbers, such as .* got '55'"),
        ({"map_shape": 5}, "map_shape must be a tuple of whole numbers.* got 5"),
        ({"map_shape": (5, 5.0)}, r"number in map_shape must be a whole number, got 5\.0"),
        ({"map_shape": (5, 0)}, "number in map_shape must be at least 1, got 0"),
        ({"strides": 0}, "number in strides must be at least 1, got 0"),
        ({"strides": (1, 2, 3)}, r"strides needs 2 numbers for this kernel, got \(1, 2, 3\)"),
        ({"kernel_dilation": "2"}, "number in kernel_dilation must be a whole number, got '2'"),
        ({"input_dilation": 2}, r"With input_dilation=2 the padding must be .* not 'SAME'"),
        ({"padding": None}, "'SAME', 'VALID', 'CIRCULAR', .* not None"),
        ({"padding": (1, 1)}, r"pairs \(low, high\) for each of 2 axes, not \(1, 1\)"),
        ({"feature_group_count": 3}, "do not divide into feature_group_count=3 groups"),
        ({"feature_group_count": 1.0}, "feature_group_count must be a whole number, got 1.0"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
    ],
)
def test_a_wrong_argument_of_a_convolution_is_named(given, said):
    with pytest.raises((TypeError, ValueError), match=said):
        norms.convolution_norm(KERNEL, **({"map_shape": (5, 5)} | given))


def test_a_kernel_in_the_place_of_the_map_is_told():
    with pytest.raises((TypeError, ValueError), match=r"kernel must be an array .*field, inputs"):
        norms.convolution_norm((5, 5), KERNEL)


@pytest.mark.parametrize("padding", [1, ((1, 1), (1, 1)), [[1, 1], [1, 1]], np.int64(1)])
def test_paddings_of_one_meaning_give_one_norm(padding):
    # A 1×1 kernel of one channel multiplies by its entry, and the zeros around change nothing.
    kernel = jnp.full((1, 1, 1, 1), 3.0)
    assert norms.convolution_norm(kernel, [4, 4], padding=padding) == pytest.approx(3)


@pytest.mark.filterwarnings("error")
def test_float64_arrays_of_numpy_become_float32_without_a_warning():
    params = {name: np.random.default_rng(0).normal(size=(3, 3, 2, 4)) for name in ("a", "b")}
    spec = fg.collection(
        params, ("a", fg.pom("PO", fg.Stiefel())), ("b", fg.pom("PO", fg.Sphere(), scale=2.0))
    )
    for placed in (fg.project(params, spec), fg.initialize(jax.random.key(0), params, spec)):
        assert all(leaf.dtype == jnp.float32 for leaf in placed.values())
        assert all(float(off) < 1e-6 for off in fg.residual(placed, spec).values())

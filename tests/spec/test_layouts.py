"""Layouts and axes as text: a name, a layout and a spelling of one cut give the same points."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fgsgd_jax as fg
from fgsgd_jax import Component, Sphere, Stiefel

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def leaf(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def leaf_spec(shape, path="w", **options):
    manifold = options.pop("manifold", Sphere())
    return fg.collection({path: leaf(*shape)}, (path, fg.pom("PO", manifold, **options)))[path]


def cut_of(shape, **options):
    return leaf_spec(shape, **options).component


SIZES = {"S": 2, "D": 3, "H": 4, "W": 5, "I": 6, "O": 7}


def shape_of(letters):
    return tuple(SIZES[letter] for letter in letters)


# --- named cuts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["HWIO", "OIHW", "IHWO", "WIO", "DHWIO", "OIDHW"])
@pytest.mark.parametrize("spatial", ["", "W", "HW", "DHW"])
def test_one_layout_covers_all_numbers_of_spatial_axes(layout, spatial):
    if layout == "IHWO":
        letters = f"I{spatial}O"
    else:
        letters = f"OI{spatial}" if layout.startswith("O") else f"{spatial}IO"
    weight = np.arange(np.prod(shape_of(letters)), dtype=np.float32).reshape(shape_of(letters))
    for name in ("slice", "filter", "matrix"):
        if name == "slice" and not spatial:
            continue
        points = cut_of(weight.shape, layout=layout, component=name).to_points(jnp.asarray(weight))
        # By hand: move the axes to (spatial, I, O), then flatten those that belong together.
        plain = np.moveaxis(weight, [letters.index(x) for x in f"{spatial}IO"], range(weight.ndim))
        if name == "slice":
            last = SIZES["W"] if len(spatial) > 1 else 1
            expected = plain.reshape(-1, last, SIZES["I"], SIZES["O"])
            if letters.index("O") < letters.index("I"):
                expected = expected.swapaxes(2, 3)  # lanes keep the order of the weight
        else:
            expected = plain.reshape(-1, SIZES["O"])
            expected = expected[:, None] if name == "filter" else expected
        np.testing.assert_array_equal(points, expected)


@pytest.mark.parametrize(
    ("shape", "layout"), [((4, 3, 3, 8, 16), "SHWIO"), ((2, 4, 32, 8), "SSIO"), ((4, 8, 6), "SIO")]
)
def test_stacked_layers_are_cut_like_each_of_them(shape, layout):
    inner = layout.replace("S", "")
    one = cut_of(shape[layout.count("S") :], layout=inner, component="matrix")
    many = cut_of(shape, layout=layout, component="matrix")
    weight = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    points = many.to_points(weight)
    for index in itertools.product(*map(range, points.shape[2:])):
        np.testing.assert_array_equal(points[(..., *index)], one.to_points(weight[index]))


def test_depthwise_and_grouped_kernels_are_cut_as_they_are():
    assert leaf_spec((3, 3, 1, 32)).points_shape == (3, 3, 1, 32)  # Flax: depthwise
    assert leaf_spec((3, 3, 4, 32)).points_shape == (3, 3, 4, 32)  # Flax: 8 channels in 2 groups
    assert leaf_spec((32, 1, 3, 3), layout="OIHW").points_shape == (3, 3, 32, 1)
    assert leaf_spec((32, 4, 5, 5), layout="OIHW", component="filter").points_shape == (100, 1, 32)


@pytest.mark.parametrize("shape", [(1000, 32), (7, 3)])
def test_a_row_is_the_vector_of_one_token_in_every_layout(shape):
    points = [leaf_spec(shape, component="row", layout=layout) for layout in (None, "HWIO", "OIHW")]
    assert {p.points_shape for p in points} == {(shape[1], 1, shape[0])}
    weight = np.random.default_rng(0).normal(size=shape)
    spec = fg.collection({"w": jnp.asarray(weight)}, ("w", fg.pom("PO", Sphere(), component="row")))
    projected = fg.project({"w": jnp.asarray(weight, jnp.float32)}, spec)["w"]
    np.testing.assert_allclose(np.linalg.norm(projected, axis=1), 1, rtol=1e-6)


def test_a_layout_of_a_pom_goes_before_that_of_the_collection():
    params = {"a": leaf(3, 3, 4, 8), "b": leaf(8, 4, 3, 3)}
    own = fg.pom("PO", Sphere(), layout="HWIO")
    spec = fg.collection(params, ("a", own), ("b", fg.pom("PO", Sphere())), layout="OIHW")
    assert spec["a"].points_shape == (3, 3, 4, 8)
    assert spec["b"].points_shape == (3, 3, 8, 4)


# --- permutations of axes ------------------------------------------------------------------------


@pytest.mark.slow
@given(st.data())
@settings(max_examples=40, deadline=None, database=None)
def test_permuting_the_axes_and_naming_them_so_permutes_the_result_and_nothing_else(data):
    letters = data.draw(st.sampled_from(["IO", "WIO", "HWIO", "SHWIO", "SIO", "DHWIO"]))
    name = data.draw(st.sampled_from(["slice", "filter", "matrix"]))
    order = data.draw(st.permutations(range(len(letters))))
    if name == "slice" and "W" not in letters:
        name = "filter"
    weight = np.random.default_rng(0).normal(size=shape_of(letters)).astype(np.float32)
    request = fg.pom("PIO", (Sphere(), fg.Euclidean()), component=name)
    if name == "matrix" and "S" not in letters:
        request = fg.pom("layer", Sphere(), component=name)
    layouts = letters, "".join(letters[axis] for axis in order)
    projected = []
    for layout, w in zip(layouts, (weight, weight.transpose(order)), strict=True):
        spec = fg.collection({"w": w}, ("w", request), layout=layout)
        projected.append(np.asarray(fg.project({"w": jnp.asarray(w)}, spec)["w"]))
    # Sums run in another order: some units of the last place.
    np.testing.assert_allclose(projected[1], projected[0].transpose(order), rtol=1e-5)


# --- shapes that speak against the layout --------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [
        (32, 16, 3, 3),
        (16, 16, 3, 3),
        (64, 3, 7, 7),
        (8, 1, 5, 5),
        (32, 16, 2, 2),
        (32, 16, 3, 3, 3),
    ],
)
def test_channels_that_stand_where_the_kernel_should_be_are_refused(shape):
    layout = "DHWIO" if len(shape) == 5 else None
    other = "OIDHW" if len(shape) == 5 else "OIHW"
    with pytest.raises(ValueError, match=rf"HWIO.*layout='{other}'.*component='") as raised:
        leaf_spec(shape, path="conv", layout=layout)
    # Both ways out that the message names work.
    assert leaf_spec(shape, layout=other).points_shape[-2:] == shape[:2]
    text = str(raised.value).split("component=")[1].strip("'.")
    assert leaf_spec(shape, component=text).points_shape[-2:] == shape[-2:]


@pytest.mark.parametrize("shape", [(3, 3, 16, 32), (7, 7, 3, 64), (5, 5, 1, 2), (1, 7, 192, 192)])
def test_the_other_layout_is_refused_for_kernels_in_front(shape):
    assert leaf_spec(shape, layout="HWIO").component.rows == (0,)
    if shape[0] == shape[1] and max(shape[2:]) > 11:
        with pytest.raises(ValueError, match=r"OIHW.*layout='HWIO'"):
            leaf_spec(shape, layout="OIHW")


@pytest.mark.parametrize(
    "shape",
    [(3, 3, 3, 3), (2, 3, 3, 3), (1, 7, 192, 192), (3, 3, 2, 2), (5, 5, 4, 4), (9, 9, 3, 8)],
)
def test_kernels_that_may_be_what_they_seem_are_taken_as_such(shape):
    assert leaf_spec(shape).points_shape == shape


@pytest.mark.parametrize(
    ("shape", "layout", "other"),
    [
        ((9, 9, 3, 3), "HWIO", "OIHW"),
        ((4, 3, 2, 2), "HWIO", "OIHW"),
        ((7, 7, 5, 5), "HWIO", "OIHW"),
        ((4, 4, 2, 2), "HWIO", "OIHW"),
        ((16, 8, 3), "WIO", "OIW"),
        ((32, 1, 5), "WIO", "OIW"),
    ],
)
@pytest.mark.parametrize("path", ["conv/kernel", "conv/w"])
def test_few_channels_that_may_stand_in_front_of_their_kernel_need_a_layout(
    path, shape, layout, other
):
    with pytest.raises(ValueError, match=f"layout='{other}'; if .* write layout='{layout}'"):
        leaf_spec(shape, path=path)
    spec = fg.collection({path: leaf(*shape)})
    assert spec[path] is None
    assert spec.reasons != ("",)
    # Both layouts that the message names work.
    front, back = (shape[:2], shape[2:]) if len(shape) == 4 else ((shape[0], 1), (shape[2], 1))
    assert leaf_spec(shape, path=path, layout=layout).points_shape == (*front, *shape[-2:])
    assert leaf_spec(shape, path=path, layout=other).points_shape == (*back, *shape[:2])


@pytest.mark.parametrize("path", ["conv/weight", "layers/0/weight", "linear/weight"])
def test_a_leaf_called_weight_needs_a_layout(path):
    params = {path: leaf(10, 32)}
    with pytest.raises(ValueError, match=r"'weight'.*layout='OIHW'.*layout='HWIO'"):
        fg.collection(params, (path, fg.pom("PO", Sphere())))
    assert fg.collection(params)[path] is None
    spec = fg.collection(params, (path, fg.pom("PO", Sphere())), layout="OIHW")
    assert spec[path].points_shape == (32, 1, 10)  # 10 outputs, each a vector of 32 inputs


@pytest.mark.parametrize("layout", ["hwio", "HWI", "HWO", "HHIO", "HW IO", "", 4, "IOO"])
def test_a_layout_has_one_capital_letter_for_each_axis(layout):
    with pytest.raises(ValueError, match="`layout` has one capital letter"):
        fg.pom("PO", Sphere(), layout=layout)
    with pytest.raises(ValueError, match="`layout` has one capital letter"):
        fg.collection({"w": leaf(3, 3, 4, 8)}, layout=layout)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [("SHWIO", (4, 8)), ("IO", (3, 3, 4, 8)), ("HWIO", (1, 2, 3, 3, 4, 8)), ("SIO", (2, 2, 4, 8))],
)
def test_a_layout_that_does_not_cover_a_weight_is_refused(layout, shape):
    with pytest.raises(ValueError, match=f"'{layout}' does not say how {len(shape)} axes"):
        leaf_spec(shape, layout=layout)


# --- axes as text --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "component"),
    [
        ("in:rows heads:stack out:columns", Component(rows=0, stack=1, columns=2)),
        ("in:rows heads out:columns", Component(rows=0, stack=1, columns=2)),
        ("rows stack columns", Component(rows=0, stack=1, columns=2)),
        ("heads h:rows out:columns", Component(rows=1, stack=0, columns=2)),
        ("layers H:rows W:columns inputs outputs", Component(1, 2, 3, 4, 0)),
        ("tokens:outputs features:rows", Component(rows=1, outputs=0)),
        (
            "in:rows (qkv=3:stack out:columns)",
            Component(rows=0, stack=1, columns=2, split=((1, (3, -1)),)),
        ),
        ("(a:rows b=4:stack) c=5:columns", Component(0, 2, (), (), 1, ((0, (-1, 4)), (1, (5,))))),
    ],
)
def test_text_spells_a_component(text, component):
    assert fg.pom("PO", Sphere(), component=text).component == component
    assert str(fg.pom("PO", Sphere(), component=text).component) == text


@pytest.mark.slow
def test_a_fused_kernel_is_three_matrices_for_queries_keys_and_values():
    weight = np.random.default_rng(0).normal(size=(64, 192)).astype(np.float32)
    request = fg.pom("layer", Stiefel(), component="in:rows (qkv=3:stack out:columns)")
    spec = fg.collection({"qkv": weight}, ("qkv", request))
    assert spec["qkv"].points_shape == (64, 64, 3)
    assert spec["qkv"].stacked == 3
    params = fg.project({"qkv": jnp.asarray(weight)}, spec)
    tx = fg.fgsgd(0.1, spec, momentum=0.9)
    state = tx.init(params)
    updates, _ = jax.jit(tx.update)({"qkv": jnp.asarray(weight[::-1] / 100)}, state, params)
    moved = np.asarray(params["qkv"] + updates["qkv"], np.float64)
    assert np.abs(updates["qkv"]).max() > 1e-3
    for block in np.split(moved, 3, axis=1):
        np.testing.assert_allclose(block.T @ block, np.eye(64), atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["PI", "PO", "PIO", "kernel"])
def test_a_split_axis_is_the_same_as_two_axes(scheme):
    shape, split = (6, 12, 4), (6, 3, 4, 4)
    text = "rows (a=3:inputs outputs) columns"
    whole = {"w": jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)}
    parts = {"w": whole["w"].reshape(split)}
    manifolds = (Sphere(), fg.Oblique())
    results = []
    for params, component in ((whole, text), (parts, "rows inputs outputs columns")):
        request = fg.pom(scheme, manifolds, component=component)
        spec = fg.collection(params, ("w", request), scale="geometric")
        projected = fg.project(params, spec, feature_std={"w": jnp.arange(1.0, 4.0)})
        results.append((np.ravel(projected["w"]), spec["w"].groups, spec["w"].gamma))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert results[0][1:] == results[1][1:]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("in:rows head out:columns", "'head'.*has no role"),
        ("in:row out:columns", "Did you mean 'rows'"),
        ("in:rows (a:stack (b:columns))", "do not match"),
        ("in:rows (a=3:stack b:columns", "lacks a closing"),
        ("in:rows a:columns)", "do not match"),
        ("in:rows ()", "do not match"),
        ("in:rows (a:stack b:columns)", "unknown size"),
        ("heads:stack out:stack", "at least one axis for its rows"),
    ],
)
def test_text_that_spells_no_component_is_refused(text, named):
    with pytest.raises(ValueError, match=named):
        fg.pom("PO", Sphere(), component=text)


@pytest.mark.parametrize(
    ("text", "shape", "named"),
    [
        ("in:rows (qkv=3:stack out:columns)", (64, 190), "size 190 is not 3 × …"),
        ("in:rows (a=3:stack b=4:columns)", (64, 13), "size 13 is not 3 × 4"),
        ("in:rows heads=8:stack out:columns", (64, 4, 16), "size 4 is not 8"),
        ("in:rows out:columns", (64, 4, 16), "3 axes.*names 2"),
    ],
)
def test_text_must_fit_the_shape(text, shape, named):
    with pytest.raises(ValueError, match=named):
        leaf_spec(shape, component=text)


@pytest.mark.parametrize("component", ["slcie", "filters", "martix", "rowss"])
def test_a_misspelled_cut_is_answered_with_the_right_one(component):
    with pytest.raises(ValueError, match=r"Did you mean '(slice|filter|matrix|row)'"):
        fg.pom("PO", Sphere(), component=component)


def test_axis_numbers_need_no_tuples():
    assert Component(rows=0, columns=2, stack=1) == Component((0,), (2,), (), (), (1,))
    assert Component(rows=np.int64(1), outputs=0).rows == (1,)


@pytest.mark.parametrize("split", [((2, (3, -1)),), ((0, (-1, -1)),), ((0, (0, 2)),), (1,), 3])
def test_a_split_names_axes_and_sizes(split):
    with pytest.raises(ValueError, match=r"Component\(split=…\)"):
        Component(rows=0, columns=1, stack=2, split=split)


# --- kernels that are larger than their channels -------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(32, 32, 12, 12), (32, 32, 16, 9), (32, 4, 8, 8), (64, 32, 8, 8), (64, 32, 1, 1)]
)
@pytest.mark.parametrize("path", ["conv/weights1", "conv1/kernel"])
def test_axes_that_are_larger_than_kernels_and_than_channels_need_a_layout(shape, path):
    with pytest.raises(
        ValueError, match=r"larger than its channels.*no convolution.*layout='OIHW'"
    ):
        fg.collection({path: leaf(*shape)}, preset="resnet")
    found = fg.collection({path: leaf(*shape)}, preset="resnet", layout="OIHW")[path]
    assert found.points_shape == (shape[1] * shape[2] * shape[3], 1, shape[0])
    assert "Euclidean" in str(fg.collection({path: leaf(*shape), "w": leaf(8, 8)}))


@pytest.mark.parametrize(
    "shape", [(16, 16, 3, 768), (31, 31, 1, 64), (1, 64, 1, 8), (22, 1, 8, 2), (11, 11, 3, 8)]
)
def test_kernels_of_patches_and_over_time_need_no_layout(shape):
    spec = fg.collection({"conv1/kernel": leaf(*shape)}, preset="resnet")
    assert spec["conv1/kernel"].points_shape == (shape[0] * shape[1] * shape[2], 1, shape[3])

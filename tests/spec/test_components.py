"""Cutting a weight into components relabels its entries: none is lost, swapped or scaled."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fgsgd_jax as fg
from fgsgd_jax import Component
from fgsgd_jax.spec._named_cuts import resolve_component


def numbered(shape):
    """An array with distinct entries, so that a swap is noticed."""
    return jnp.arange(math.prod(shape), dtype=jnp.float32).reshape(shape)


def place(index, shape, axes):
    """The position of an entry among the entries of some axes, flattened in the order given."""
    position = 0
    for axis in axes:
        position = position * shape[axis] + index[axis]
    return position


def assert_cut_is_a_relabelling(component: Component, shape):
    weight = numbered(shape)
    points = component.to_points(weight)
    lanes = sorted(component.inputs + component.outputs + component.stack)
    rows = math.prod(shape[axis] for axis in component.rows)
    columns = math.prod(shape[axis] for axis in component.columns)
    assert points.shape == (rows, columns, *(shape[axis] for axis in lanes))
    assert points.shape == component.points_shape(shape)
    entries, expected = np.asarray(weight), np.empty(points.shape, np.float32)
    for index in itertools.product(*map(range, shape)):
        row, column = place(index, shape, component.rows), place(index, shape, component.columns)
        expected[(row, column, *(index[axis] for axis in lanes))] = entries[index]
    np.testing.assert_array_equal(points, expected)
    np.testing.assert_array_equal(component.from_points(points, shape), weight)


# A short list: a Python loop visits every entry, and every new shape is compiled.
SHAPES = [(5,), (2, 3), (3, 1), (2, 3, 2), (3, 2, 1, 2), (2, 1, 3, 2), (2, 3, 1, 2, 2)]
ROLES = ("rows", "columns", "inputs", "outputs", "stack")


@st.composite
def cuts(draw):
    """A shape and a component that names its axes, in any order and for any role."""
    shape = draw(st.sampled_from(SHAPES))
    first, *others = draw(st.permutations(range(len(shape))))
    named = {role: () for role in ROLES} | {"rows": (first,)}
    for axis in others:
        named[draw(st.sampled_from(ROLES))] += (axis,)
    return Component(**named), shape


@pytest.mark.slow
@given(cuts())
@settings(max_examples=60, deadline=None, database=None)
def test_named_axes_are_cut_and_put_back(cut):
    assert_cut_is_a_relabelling(*cut)


@pytest.mark.parametrize(
    ("name", "shape", "rows", "columns", "lanes"),
    [
        ("slice", (3, 2, 2, 4), 3, 2, (2, 4)),
        ("slice", (1, 2, 1, 3), 1, 2, (1, 3)),
        ("filter", (3, 2, 2, 4), 12, 1, (4,)),
        ("filter", (1, 1, 5, 3), 5, 1, (3,)),
        ("filter", (4, 3), 4, 1, (3,)),
        ("matrix", (3, 2, 2, 4), 12, 4, ()),
        ("matrix", (4, 3), 4, 3, ()),
    ],
)
def test_cuts_with_a_name_are_cut_and_put_back(name, shape, rows, columns, lanes):
    component = resolve_component(name, shape, prefer_matrix=False)
    assert component.points_shape(shape) == (rows, columns, *lanes)
    assert_cut_is_a_relabelling(component, shape)


def test_a_slice_is_the_spatial_matrix_of_one_input_and_one_output_channel():
    weight = numbered((3, 3, 2, 4))
    points = resolve_component("slice", weight.shape, prefer_matrix=False).to_points(weight)
    for c, d in itertools.product(range(2), range(4)):
        np.testing.assert_array_equal(points[:, :, c, d], weight[:, :, c, d])


def test_a_filter_is_the_whole_weight_of_one_output_channel():
    weight = numbered((3, 2, 2, 4))
    points = resolve_component("filter", weight.shape, prefer_matrix=False).to_points(weight)
    for d in range(4):
        np.testing.assert_array_equal(points[:, 0, d], np.ravel(weight[..., d]))


def test_a_slice_is_not_transposed_copied_or_reshaped():
    # Kernels keep their layout and their sharding: the cut must compile to nothing.
    component = resolve_component("slice", (3, 3, 2, 4), prefer_matrix=False)
    weight = numbered((3, 3, 2, 4))
    assert not jax.make_jaxpr(component.to_points)(weight).eqns
    assert not jax.make_jaxpr(lambda points: component.from_points(points, (3, 3, 2, 4)))(
        weight
    ).eqns


@pytest.mark.parametrize(
    ("shape", "prefer_matrix", "name"),
    [
        ((3, 3, 2, 4), False, "slice"),
        ((3, 3, 2, 4), True, "slice"),
        ((1, 5, 2, 4), False, "slice"),
        ((1, 1, 2, 4), False, "filter"),
        ((1, 1, 2, 4), True, "matrix"),
        ((6, 4), False, "filter"),
        ((6, 4), True, "matrix"),
    ],
)
def test_the_default_cut_follows_from_the_shape_and_the_manifold(shape, prefer_matrix, name):
    component = resolve_component(None, shape, prefer_matrix=prefer_matrix)
    assert component == resolve_component(name, shape, prefer_matrix=False)
    assert str(component) == name


def test_the_manifold_decides_how_a_dense_kernel_is_cut():
    params = {"w": jnp.ones((6, 4))}
    shapes = {
        manifold: fg.collection(params, ("w", fg.pom("layer", manifold)))["w"].points_shape
        for manifold in (fg.Sphere(), fg.Oblique(), fg.Stiefel(), fg.Euclidean())
    }
    assert list(shapes.values()) == [(6, 1, 4), (6, 4), (6, 4), (6, 1, 4)]


def test_lane_axes_are_counted_among_the_lanes():
    component = Component(rows=(3,), inputs=(4,), outputs=(1,), stack=(0, 2))
    assert component.lanes == (0, 1, 2, 4)
    assert component.lane_axes((4, 1)) == (3, 1)
    assert component.axes == (3, 0, 1, 2, 4)


def test_components_are_equal_and_hashable_by_what_they_name():
    one, other = Component(rows=(0,), outputs=(1,)), Component(rows=(0,), outputs=(1,))
    assert one == other
    assert hash(one) == hash(other)
    assert one != Component(rows=(0,), inputs=(1,))


def test_a_component_of_its_own_prints_the_axes_it_names():
    heads = Component(rows=(0,), columns=(2,), stack=(1,))
    assert str(heads) == "rows=(0,), columns=(2,), stack=(1,)"


def test_half_precision_weights_are_cut_in_their_own_dtype():
    weight = numbered((3, 2, 1, 2)).astype(jnp.bfloat16)
    component = resolve_component("matrix", weight.shape, prefer_matrix=True)
    points = component.to_points(weight)
    assert points.dtype == jnp.bfloat16
    assert component.from_points(points, weight.shape).dtype == jnp.bfloat16

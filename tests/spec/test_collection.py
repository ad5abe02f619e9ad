"""From rules over paths and shapes to a spec, and the functions that take one."""

import dataclasses
import itertools
import pickle
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg

MANIFOLDS = (fg.Sphere(), fg.Oblique(), fg.Stiefel())


def leaf(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


NETWORK = {
    "conv1": {"kernel": leaf(3, 3, 4, 8), "bias": leaf(8)},
    "conv2": {"kernel": leaf(3, 3, 8, 8), "bias": leaf(8)},
    "head": {"kernel": leaf(8, 6), "bias": leaf(6)},
}


# --- rules ---------------------------------------------------------------------------------------


def test_the_first_rule_that_matches_decides():
    spec = fg.collection(
        NETWORK,
        ("conv1/kernel", fg.pom("PI", fg.Stiefel())),
        ("conv*/kernel", fg.pom("PO", fg.Sphere())),
        ("*", None),
    )
    assert spec["conv1/kernel"].manifolds == (fg.Stiefel(),)
    assert spec["conv2/kernel"].scheme == "PO"
    assert [path for path, leaf_spec in spec.layers if leaf_spec is None] == [
        "conv1/bias",
        "conv2/bias",
        "head/bias",
        "head/kernel",
    ]


def test_a_star_crosses_slashes_and_a_glob_matches_the_whole_path():
    deep = {"a": {"b": {"kernel": leaf(6, 4)}}, "kernel2": leaf(6, 4), "kernel": leaf(6, 4)}
    request = fg.pom("PO", fg.Sphere())
    spec = fg.collection(deep, ("a/*", request), default=None)
    assert [path for path, _ in spec.on_manifolds()] == ["a/b/kernel"]
    spec = fg.collection(deep, ("*kernel", request), default=None)
    assert [path for path, _ in spec.on_manifolds()] == ["a/b/kernel", "kernel"]
    spec = fg.collection(deep, ("kerne[l]?", request), default=None)
    assert [path for path, _ in spec.on_manifolds()] == ["kernel2"]
    with pytest.raises(ValueError, match="'KERNEL' matches no leaf"):
        fg.collection(deep, ("KERNEL", request))


def test_a_rule_of_none_keeps_a_kernel_euclidean_against_the_default():
    spec = fg.collection(NETWORK, ("conv1/*", None))
    assert spec["conv1/kernel"] is None
    assert spec["conv2/kernel"] is not None


# --- defaults ------------------------------------------------------------------------------------


def test_by_default_square_kernels_are_mixed_and_all_else_is_euclidean():
    params = {
        "w": leaf(3, 3, 4, 8),
        "conv": leaf(4, 4, 4, 8),
        "5x2": leaf(5, 2, 4, 8),  # two stacked axes of a 5-layer ensemble, for all we know
        "1x1": leaf(1, 1, 4, 8),
        "dense": leaf(4, 8),
        "heads": leaf(4, 2, 8),
        "bias": leaf(8),
        "scale": leaf(),
        "stack": leaf(2, 3, 3, 4, 8),
        "counts": leaf(3, 3, 4, 8, dtype=jnp.int32),
        "half/kernel": leaf(3, 3, 4, 8, dtype=jnp.bfloat16),
    }
    # Names of what is no layer, or does not convolve.
    params |= dict.fromkeys(["rel_pos_bias", "core", "precond", "lora_a"], leaf(3, 3, 4, 8))
    params |= dict.fromkeys(["Einsum_0/w", "rel_pos/kernel", "attn/scores"], leaf(3, 3, 4, 8))
    spec = fg.collection(params)
    placed = dict(spec.on_manifolds())
    assert set(placed) == {"w", "conv", "half/kernel"}
    for leaf_spec in placed.values():
        assert (leaf_spec.scheme, leaf_spec.manifolds, leaf_spec.groups) == ("PIO", MANIFOLDS, 4)
        assert str(leaf_spec.component) == "slice"


def test_a_pom_as_default_takes_all_matrices_of_floats():
    params = {
        "conv": leaf(3, 3, 4, 8),
        "1x1": leaf(1, 1, 4, 8),
        "dense": leaf(4, 8),
        "bias": leaf(8),
        "counts": leaf(4, 8, dtype=jnp.int32),
    }
    spec = fg.collection(params, default=fg.pom("PO", fg.Sphere()))
    assert {path: str(leaf_spec.component) for path, leaf_spec in spec.on_manifolds()} == {
        "conv": "slice",
        "1x1": "filter",
        "dense": "filter",
    }


def test_none_as_default_leaves_all_others_euclidean():
    spec = fg.collection(NETWORK, ("head/kernel", fg.pom("PO", fg.Stiefel())), default=None)
    assert [path for path, _ in spec.on_manifolds()] == ["head/kernel"]


# --- trees of any kind ---------------------------------------------------------------------------


class Block(NamedTuple):
    kernel: object
    bias: object


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Module:
    kernel: object
    extra: object


def test_paths_are_the_keys_of_any_pytree():
    tree = {
        "blocks": [Block(leaf(3, 3, 2, 4), leaf(4)), Block(leaf(3, 3, 4, 4), None)],
        "pair": (leaf(2, 2), {3: leaf(2, 2)}),
        "module": Module(leaf(3, 3, 2, 4), None),
        "none": None,
        "masked": optax.MaskedNode(),
        "empty": {},
    }
    spec = fg.collection(tree)
    assert [path for path, _ in spec.layers] == [
        "blocks/0/kernel",
        "blocks/0/bias",
        "blocks/1/kernel",
        "module/kernel",
        "pair/0",
        "pair/1/3",
    ]
    assert set(dict(spec.on_manifolds())) == {"blocks/0/kernel", "blocks/1/kernel", "module/kernel"}


def test_one_bare_array_is_a_tree():
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 2, 2)), jnp.float32)
    spec = fg.collection(kernel, ("*", fg.pom("PI", fg.Sphere())))
    projected = fg.project(kernel, spec)
    # Rounding of nine squares, a root and a quotient in float32.
    np.testing.assert_allclose(np.linalg.norm(projected, axis=(0, 1)), 1, rtol=1e-6)
    tx = fg.fgsgd(0.1, spec)
    updates, _ = tx.update(jnp.ones_like(kernel), tx.init(projected), projected)
    assert updates.shape == kernel.shape
    assert float(jnp.max(jnp.abs(updates))) > 0


def test_shapes_are_enough_and_arrays_give_the_same_spec():
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), NETWORK)
    numpy_params = jax.tree.map(np.asarray, params)
    rule = ("conv*/kernel", fg.pom("PIO", MANIFOLDS, groups=3))
    assert fg.collection(NETWORK, rule) == fg.collection(params, rule)
    assert fg.collection(NETWORK, rule) == fg.collection(numpy_params, rule)


def test_two_leaves_of_the_same_joined_path_are_refused():
    # "a/b" as one key and as two keys: leaves are found by path, so they would be confused.
    params = {"a/b": leaf(3, 3, 1, 2), "a": {"b": leaf(3, 3, 1, 2)}}
    with pytest.raises(ValueError, match="'a/b'"):
        fg.collection(params)


# --- the spec as a value -------------------------------------------------------------------------


def network_spec(seed=0, groups=3):
    return fg.collection(
        NETWORK,
        ("conv*/kernel", fg.pom("PIO", MANIFOLDS, groups=groups)),
        ("head/kernel", fg.pom("PO", fg.Stiefel(retraction="qr"))),
        seed=seed,
    )


def test_specs_are_equal_and_hashable_by_what_they_decide():
    assert network_spec() == network_spec()
    assert hash(network_spec()) == hash(network_spec())
    assert network_spec() != network_spec(seed=1)
    assert network_spec() != network_spec(groups=4)
    assert network_spec(seed=np.int64(1)) == network_spec(seed=1)


def test_a_spec_can_be_pickled():
    assert pickle.loads(pickle.dumps(network_spec())) == network_spec()


def test_a_spec_is_a_static_argument_of_jitted_functions():
    traced = []

    def count(spec, x):
        traced.append(spec)
        return x * len(list(spec.on_manifolds()))

    jitted = jax.jit(count, static_argnums=0)
    assert [float(jitted(spec, 1.0)) for spec in (network_spec(), network_spec())] == [3.0, 3.0]
    assert len(traced) == 1  # an equal spec is the same argument
    assert float(jitted(network_spec(seed=1), 1.0)) == 3.0
    assert len(traced) == 2


def test_a_spec_is_part_of_the_structure_of_a_tree():
    leaves, structure = jax.tree.flatten({"spec": network_spec(), "x": 1.0})
    assert leaves == [1.0]
    assert jax.tree.unflatten(structure, leaves)["spec"] == network_spec()


# --- the table -----------------------------------------------------------------------------------


def test_a_spec_prints_as_an_aligned_table():
    heads = fg.Component(rows=(0,), columns=(2,), stack=(1,))
    params = {**NETWORK, "query": leaf(16, 4, 8), "a_rather_long_name": {"scale": leaf()}}
    spec = fg.collection(
        params,
        ("conv1/kernel", fg.pom("PIO", MANIFOLDS, groups=3)),
        ("conv2/kernel", fg.pom("kernel", fg.Stiefel(retraction="qr"))),
        ("head/kernel", fg.pom("PO", fg.Oblique())),
        ("query", fg.pom("layer", fg.Stiefel(), component=heads)),
        default=None,
    )
    mixed = "Sphere: 11, Oblique: 11, Stiefel: 10"
    expected = [
        ("path", "shape", "component", "manifolds", "groups"),
        ("a_rather_long_name/scale", "()", "", "Euclidean (default=None)", ""),
        ("conv1/bias", "(8,)", "", "Euclidean (default=None)", ""),
        ("conv1/kernel", "(3, 3, 4, 8)", "slice 3×3", mixed, "PIO: 3"),
        ("conv2/bias", "(8,)", "", "Euclidean (default=None)", ""),
        ("conv2/kernel", "(3, 3, 8, 8)", "slice 3×3", "Stiefel(retraction='qr'): 64", "kernel: 64"),
        ("head/bias", "(6,)", "", "Euclidean (default=None)", ""),
        ("head/kernel", "(8, 6)", "matrix 8×6", "Oblique: 1", "PO: 1"),
        (
            "query",
            "(16, 4, 8)",
            "rows=(0,), columns=(2,), stack=(1,) 16×8",
            "Stiefel: 4",
            "layer: 1 in each of 4 stacked layers",
        ),
    ]
    summary, *lines = spec.table(full=True).splitlines()
    assert summary == (
        "4 of 8 leaves on manifolds, 98 % of the weights, 101 components: "
        "Sphere 11 · Oblique 12 · Stiefel 78"
    )
    assert lines.pop().startswith("No normalization layer")  # a scale without axes is none
    assert len(lines) == len(expected)
    offsets = [lines[0].index(word) for word in expected[0]]
    for line, cells in zip(lines, expected, strict=True):
        assert line == line.rstrip()
        for cell, start, end in zip(cells, offsets, [*offsets[1:], None], strict=True):
            assert line[start:end].rstrip() == cell
            assert start == 0 or not line[start - 2 : start].strip()


def test_a_spec_has_a_short_repr():
    assert repr(network_spec()) == "<Collection of 6 leaves, 3 on manifolds>"


# --- masks and labels ----------------------------------------------------------------------------


def test_masks_and_labels_mark_euclidean_leaves():
    params = {"conv": leaf(3, 3, 2, 4), "bias": leaf(4), "none": None}
    spec = fg.collection(params)
    assert spec.euclidean_mask(params) == {"conv": False, "bias": True, "none": None}
    assert spec.labels(params) == {"conv": "manifold", "bias": "euclidean", "none": None}


# --- project -------------------------------------------------------------------------------------


def nearest(manifold, x):
    if manifold == fg.Sphere():
        return x / np.linalg.norm(x)
    if manifold == fg.Oblique():
        return np.stack([column / np.linalg.norm(column) for column in x.T], axis=1)
    if manifold == fg.Stiefel():
        u, _, vt = np.linalg.svd(x, full_matrices=False)
        return u @ vt
    return x


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("shape", [(3, 3, 4, 5), (2, 3, 4, 5), (4, 2, 4, 5)], ids=str)
def test_project_finds_the_nearest_point_of_every_component(shape):
    rng = np.random.default_rng(0)
    manifolds = (*MANIFOLDS, fg.Euclidean())
    with jax.enable_x64(True):
        params = {"w": jnp.asarray(rng.normal(size=shape)), "b": jnp.asarray(rng.normal(size=4))}
        spec = fg.collection(params, ("w", fg.pom("PO", manifolds)))
        # Jitted: one program is compiled, not one for every operation.
        project = jax.jit(lambda params: fg.project(params, spec))
        projected = project(params)
        again = project(projected)
    manifold_ids = spec["w"].draw().manifold_ids
    for lane in itertools.product(range(4), range(5)):
        expected = nearest(manifolds[manifold_ids[lane]], np.asarray(params["w"])[:, :, *lane])
        # An SVD of a random 3×3 matrix: eps times a condition number of at most a hundred or so.
        np.testing.assert_allclose(projected["w"][:, :, *lane], expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(again["w"], projected["w"], rtol=0, atol=1e-14)
    np.testing.assert_array_equal(projected["b"], params["b"])


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 3, 2, 3), (2, 3, 2, 3)], ids=str)
def test_project_accepts_mixed_components_that_are_not_zero(shape):
    # Outside of jit, where zeros are refused: lanes of other manifolds must not count as zeros.
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)}
    spec = fg.collection(params, ("w", fg.pom("PO", MANIFOLDS)))
    # Rounding of a float32 singular value decomposition.
    assert float(fg.residual(fg.project(params, spec), spec)["w"]) < 1e-5


@pytest.mark.slow
def test_project_keeps_dtypes_and_structure():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 3, 2, 4))
    params = {
        "half": jnp.asarray(weight, jnp.bfloat16),
        "single": jnp.asarray(weight, jnp.float32),
        "none": None,
    }
    spec = fg.collection(params)
    projected = fg.project(params, spec)
    assert jax.tree.structure(projected) == jax.tree.structure(params)
    assert projected["half"].dtype == jnp.bfloat16
    assert projected["single"].dtype == jnp.float32


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)
def test_project_of_a_zero_component_is_an_error_with_its_path(manifold):
    weight = np.random.default_rng(0).normal(size=(3, 3, 2, 4)).astype(np.float32)
    weight[:, :, 1, 2] = 0
    params = {"block": {"kernel": jnp.asarray(weight)}}
    spec = fg.collection(params, ("*", fg.pom("PI", manifold)))
    with pytest.raises(ValueError, match=r"'block/kernel'.*no nearest.*\d+ are such.*initialize"):
        fg.project(params, spec)


def test_a_zero_component_is_no_error_on_flat_space():
    params = {"w": jnp.zeros((3, 3, 2, 4))}
    spec = fg.collection(params, ("w", fg.pom("PI", fg.Euclidean())))
    np.testing.assert_array_equal(fg.project(params, spec)["w"], 0)


def test_project_of_a_zero_component_is_nan_where_values_are_unknown():
    params = {"w": jnp.zeros((3, 3, 1, 2)).at[0, 0, 0, 0].set(2.0)}
    spec = fg.collection(params, ("w", fg.pom("PI", fg.Sphere())))
    projected = jax.jit(lambda params: fg.project(params, spec))(params)["w"]
    assert bool(jnp.all(jnp.isnan(projected[..., 1])))
    assert float(projected[0, 0, 0, 0]) == 1


# --- initialize ----------------------------------------------------------------------------------


def column_norms(w):
    return np.linalg.norm(w, axis=0)


@pytest.mark.slow
def test_initialize_draws_points_on_the_manifolds():
    with jax.enable_x64(True):
        params = {"w": jnp.zeros((3, 3, 8, 12), jnp.float64), "b": jnp.ones(3)}
        spec = fg.collection(params, ("w", fg.pom("PI", MANIFOLDS)))
        drawn = jax.jit(lambda key: fg.initialize(key, params, spec))(jax.random.key(0))
    np.testing.assert_array_equal(drawn["b"], params["b"])
    assert drawn["w"].dtype == jnp.float64
    manifold_ids, w = spec["w"].draw().manifold_ids, np.asarray(drawn["w"])
    for lane in itertools.product(range(8), range(12)):
        point = w[:, :, *lane]
        # Rounding of a dozen operations in float64.
        if manifold_ids[lane] == 0:
            assert abs(np.linalg.norm(point) - 1) < 1e-13
        elif manifold_ids[lane] == 1:
            assert np.max(np.abs(column_norms(point) - 1)) < 1e-13
        else:
            assert np.max(np.abs(point.T @ point - np.eye(3))) < 1e-13


@pytest.mark.slow
@pytest.mark.parametrize(
    ("manifold", "variance"),
    # The mean square of an entry: the squared norm of a point, shared by its entries evenly.
    [(fg.Sphere(), 1 / 9), (fg.Oblique(), 1 / 3), (fg.Stiefel(), 1 / 3)],
    ids=str,
)
def test_initialize_is_uniform_over_the_components(manifold, variance):
    params = {"w": leaf(3, 3, 64, 64)}
    spec = fg.collection(params, ("w", fg.pom("PI", manifold)))
    w = np.asarray(fg.initialize(jax.random.key(1), params, spec)["w"], np.float64)
    count = 64 * 64
    points = w.reshape(9, count)
    # Five standard deviations of the mean of `count` independent draws. Entries are bounded by 1,
    # so products of two have a standard deviation below that of an entry.
    assert np.max(np.abs(points.mean(axis=1))) < 5 * np.sqrt(variance / count)
    second = points @ points.T / count
    assert np.max(np.abs(second - variance * np.eye(9))) < 5 * np.sqrt(variance / count)


@pytest.mark.slow
def test_a_leaf_is_drawn_from_the_key_and_its_own_path():
    def drawn(key, tree):
        spec = fg.collection(tree, default=fg.pom("PI", fg.Oblique()))
        return fg.initialize(jax.random.key(key), tree, spec)

    kernel = leaf(3, 3, 2, 4)
    alone = drawn(0, {"b": kernel})["b"]
    among = drawn(0, {"a": leaf(3, 3, 4, 4), "b": kernel, "c": kernel})
    np.testing.assert_array_equal(alone, among["b"])
    assert not np.array_equal(among["b"], among["c"])
    assert not np.array_equal(alone, drawn(1, {"b": kernel})["b"])


# --- residual ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 3, 2, 5), (2, 3, 2, 5)], ids=str)
def test_residual_is_the_distance_of_the_worst_component(shape):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=shape)
    manifolds = (*MANIFOLDS, fg.Euclidean())

    def expected(manifold, x):
        if manifold == fg.Sphere():
            return abs(np.linalg.norm(x) - 1)
        if manifold == fg.Oblique():
            return np.max(np.abs(column_norms(x) - 1))
        if manifold == fg.Stiefel():
            gram = x @ x.T if x.shape[0] < x.shape[1] else x.T @ x
            return np.linalg.norm(gram - np.eye(len(gram)))
        return 0.0

    with jax.enable_x64(True):
        params = {name: jnp.asarray(weight) for name in ("Sp", "Ob", "St", "Euc", "mixed", "none")}
        placed = dict(zip(("Sp", "Ob", "St", "Euc"), manifolds, strict=True), mixed=manifolds)
        rules = [(name, fg.pom("PI", manifold)) for name, manifold in placed.items()]
        spec = fg.collection(params, *rules, ("none", None))
        found = {path: float(value) for path, value in fg.residual(params, spec).items()}
    lanes = list(itertools.product(range(2), range(5)))
    manifold_ids = spec["mixed"].draw().manifold_ids
    assert set(found) == {"Sp", "Ob", "St", "Euc", "mixed"}
    for name, manifold in zip(("Sp", "Ob", "St", "Euc"), manifolds, strict=True):
        worst = max(expected(manifold, weight[:, :, *lane]) for lane in lanes)
        assert found[name] == pytest.approx(worst, rel=1e-13)
    worst = max(expected(manifolds[manifold_ids[lane]], weight[:, :, *lane]) for lane in lanes)
    assert found["mixed"] == pytest.approx(worst, rel=1e-13)


def test_residual_sees_nan():
    params = {"w": jnp.full((3, 3, 1, 2), jnp.nan)}
    spec = fg.collection(params, ("w", fg.pom("PI", fg.Sphere())))
    assert bool(jnp.isnan(fg.residual(params, spec)["w"]))


def test_residual_measures_half_precision_in_single():
    # 1 + 2⁻⁷ is a bfloat16; its square, computed in bfloat16, would lose the second-order term.
    params = {"w": jnp.zeros((2, 1, 1, 1), jnp.bfloat16).at[0].set(1 + 2.0**-7)}
    spec = fg.collection(params, ("w", fg.pom("PI", fg.Sphere())))
    measured = fg.residual(params, spec)["w"]
    assert measured.dtype == jnp.float32
    assert float(measured) == pytest.approx(2.0**-7, rel=1e-4)

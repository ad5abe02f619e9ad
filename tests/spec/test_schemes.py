"""Groups and assigned manifolds, against enumeration and an independent draw."""

import collections
import itertools
import json
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgsgd_jax as fg
from fgsgd_jax import Component
from fgsgd_jax.spec import _groups

MANIFOLDS = (fg.Sphere(), fg.Oblique(), fg.Stiefel())
STACKED = Component(rows=(1,), columns=(2,), inputs=(3,), outputs=(4,), stack=(0,))


def spec_of(shape, scheme, manifolds=MANIFOLDS, *, groups=None, component=None, seed=0):
    """The spec of one weight of this shape."""
    request = fg.pom(scheme, manifolds, groups=groups, component=component)
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    return fg.collection({"w": leaf}, ("w", request), seed=seed)


def leaf_spec_of(*arguments, **settings):
    return spec_of(*arguments, **settings)["w"]


def members(spec):
    """The groups that the optimizer uses: for every component, the components that share its τ.

    Every component gets its own power of two as its squared norm, so the norm g of a group, found
    from τ = g(2 + g), encodes its members.
    """
    leaf_spec = spec["w"]
    lanes = leaf_spec.points_shape[2:]
    points = np.zeros(leaf_spec.points_shape)
    points[0, 0] = np.sqrt(2.0 ** np.arange(math.prod(lanes)).reshape(lanes))
    with jax.enable_x64(True):
        vector = leaf_spec.component.from_points(jnp.asarray(points), leaf_spec.shape)
        link = fg.scale_by_fgsgd(spec)
        scaled, _ = link.update({"w": vector}, link.init({"w": vector}))
        tau = points[0, 0] / np.asarray(leaf_spec.component.to_points(scaled["w"]))[0, 0]
    codes = np.rint((np.sqrt(1 + tau) - 1) ** 2).astype(int)
    order = list(itertools.product(*map(range, lanes)))
    found = {}
    for lane in order:
        found[lane] = frozenset(o for bit, o in enumerate(order) if codes[lane] >> bit & 1)
    return found


# --- groups --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "same_group", "count"),
    [
        ("PI", lambda one, other: one[0] == other[0], 3),
        ("PO", lambda one, other: one[1] == other[1], 4),
        ("layer", lambda one, other: True, 1),
        ("kernel", lambda one, other: one == other, 12),
    ],
)
def test_groups_follow_the_definition(scheme, same_group, count):
    spec = spec_of((3, 3, 3, 4), scheme)
    lanes = list(itertools.product(range(3), range(4)))
    found = members(spec)
    for lane in lanes:
        assert found[lane] == {other for other in lanes if same_group(lane, other)}
    assert spec["w"].groups == len(set(found.values())) == count


@pytest.mark.parametrize("scheme", ["PI", "PO", "layer", "kernel", "PIO"])
def test_groups_never_span_stacked_layers(scheme):
    groups = 2 if scheme == "PIO" else None
    spec = spec_of((2, 3, 3, 2, 3), scheme, component=STACKED, groups=groups)
    found = members(spec)
    for lane, group in found.items():
        assert lane in group
        assert {other[0] for other in group} == {lane[0]}
    assert len(set(found.values())) == 2 * spec["w"].groups
    shared = {"PI": [0, 1], "PO": [0, 2], "layer": [0], "kernel": [0, 1, 2]}.get(scheme)
    if shared:
        for lane, group in found.items():
            assert group == {o for o in found if all(o[axis] == lane[axis] for axis in shared)}


@pytest.mark.parametrize(
    ("component", "shape", "counts"),
    [
        ("filter", (3, 3, 2, 4), {"PI": 1, "PO": 4, "layer": 1, "kernel": 4, "PIO": 1}),
        ("matrix", (3, 3, 2, 4), {"PI": 1, "PO": 1, "layer": 1, "kernel": 1, "PIO": 1}),
        ("slice", (3, 3, 5, 2), {"PI": 5, "PO": 2, "layer": 1, "kernel": 10, "PIO": 2}),
    ],
)
def test_a_cut_without_channels_has_one_group_over_them(component, shape, counts):
    for scheme, count in counts.items():
        assert leaf_spec_of(shape, scheme, fg.Sphere(), component=component).groups == count


@pytest.mark.parametrize(
    ("channels", "groups"), [((4, 6), 5), ((4, 6), 24), ((4, 6), 1), ((3, 5), 7), ((2, 8), None)]
)
def test_pio_is_a_partition_into_near_equal_parts(channels, groups):
    leaf_spec = leaf_spec_of((3, 3, *channels), "PIO", groups=groups)
    expected = groups or min(channels)
    drawn = leaf_spec.draw().groups
    assert drawn.shape == channels
    assert drawn.dtype == np.int32
    sizes = collections.Counter(drawn.ravel().tolist())
    assert set(sizes) == set(range(expected))  # every component in one group, no group empty
    assert max(sizes.values()) - min(sizes.values()) <= 1
    assert leaf_spec.groups == expected


def test_the_norm_of_a_pio_group_is_that_of_its_drawn_members():
    spec = spec_of((3, 3, 4, 6), "PIO", groups=5)
    drawn = spec["w"].draw().groups
    for lane, group in members(spec).items():
        assert group == {tuple(other) for other in np.argwhere(drawn == drawn[lane])}


def test_pio_groups_run_over_both_channel_axes():
    drawn = leaf_spec_of((3, 3, 12, 12), "PIO", groups=12).draw().groups
    # A group within one row or column would be PI or PO. Twelve of 144 components drawn at
    # random lie in at most three rows with a probability below 1e-6.
    for group in range(12):
        inputs, outputs = np.nonzero(drawn == group)
        assert len(set(inputs)) > 3
        assert len(set(outputs)) > 3


def test_every_component_is_equally_likely_in_every_group():
    leaf_specs = [leaf_spec_of((3, 3, 2, 3), "PIO", groups=3, seed=seed) for seed in range(600)]
    draws = [leaf_spec.draw().groups for leaf_spec in leaf_specs]
    expected = len(draws) / 3
    # Five standard deviations of a binomial count: one of the 18 counts exceeds them once in 10⁵
    # runs. The seeds are fixed, so the test passes always or never.
    allowed = 5 * math.sqrt(len(draws) * (1 / 3) * (2 / 3))
    for group in range(3):
        counts = np.sum([draw == group for draw in draws], axis=0)
        assert np.max(np.abs(counts - expected)) < allowed


# --- manifolds -----------------------------------------------------------------------------------

MANY = [
    ((3, 3, 4, 6), "PI", None),
    ((3, 3, 4, 7), "PI", None),
    ((3, 3, 4, 6), "PO", None),
    ((3, 3, 5, 4), "PO", None),
    ((3, 3, 4, 6), "PIO", 5),
    ((3, 3, 3, 5), "PIO", 4),
    ((3, 3, 5, 5), "layer", None),
    ((3, 3, 3, 4), "kernel", None),
]


def near_equal(manifold_ids, manifold_count):
    counts = np.bincount(manifold_ids, minlength=manifold_count)
    return counts.max() - counts.min() <= 1


@pytest.mark.parametrize("manifold_count", [2, 3, 4])
@pytest.mark.parametrize(("shape", "scheme", "groups"), MANY)
def test_every_group_and_the_layer_are_shared_equally_by_all_manifolds(
    shape, scheme, groups, manifold_count
):
    manifolds = (*MANIFOLDS, fg.Euclidean())[:manifold_count]
    leaf_spec = leaf_spec_of(shape, scheme, manifolds, groups=groups, seed=2)
    manifold_ids = leaf_spec.draw().manifold_ids
    assert manifold_ids.shape == shape[2:]
    assert manifold_ids.dtype == np.int8
    index_in, index_out = np.indices(shape[2:])
    group_of = {
        "PI": index_in,
        "PO": index_out,
        "PIO": leaf_spec.draw().groups,
        "layer": np.zeros_like(index_in),
        "kernel": index_in * shape[3] + index_out,
    }[scheme]
    for group in range(leaf_spec.groups):
        held = manifold_ids[group_of == group]
        assert near_equal(held, manifold_count)
        assert len(held) < manifold_count or set(held) == set(range(manifold_count))
    assert near_equal(manifold_ids.ravel(), manifold_count)
    assert leaf_spec.counts() == tuple(np.bincount(manifold_ids.ravel(), minlength=manifold_count))


def test_every_stacked_layer_is_shared_equally_by_all_manifolds_and_drawn_on_its_own():
    leaf_spec = leaf_spec_of((4, 3, 3, 6, 6), "PI", component=STACKED)
    manifold_ids = leaf_spec.draw().manifold_ids
    assert manifold_ids.shape == (4, 6, 6)
    for stacked in manifold_ids:
        assert near_equal(stacked.ravel(), 3)
        for group in stacked:
            assert near_equal(group, 3)
    assert len({stacked.tobytes() for stacked in manifold_ids}) == 4


@pytest.mark.parametrize("channels", [(1, 1), (2, 2)], ids=["one each", "four each"])
def test_all_stacked_layers_together_are_shared_equally_too(channels):
    # With one matrix per head, all heads would be on the first manifold if every stacked layer
    # started with it.
    counts = leaf_spec_of((12, 3, 3, *channels), "layer", component=STACKED).counts()
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("scheme", "axis"), [("PI", 0), ("PO", 1)])
def test_manifolds_are_not_assigned_in_the_same_pattern_in_every_group(scheme, axis):
    manifold_ids = leaf_spec_of((3, 3, 12, 12), scheme).draw().manifold_ids
    patterns = {row.tobytes() for row in np.moveaxis(manifold_ids, axis, 0)}
    # There are 34,650 patterns with four of each: two of 12 groups agree in one draw of 500.
    assert len(patterns) == 12


def test_the_most_frequent_manifold_changes_from_group_to_group():
    # 4 components on 3 manifolds: one has two of them. If that were always the first, or followed
    # the order of the groups, there would be a pattern over the input channels.
    manifold_ids = leaf_spec_of((3, 3, 30, 4), "PI").draw().manifold_ids
    twice = [int(np.argmax(np.bincount(group, minlength=3))) for group in manifold_ids]
    assert sorted(collections.Counter(twice).values()) == [10, 10, 10]
    assert twice != [group % 3 for group in range(30)]
    assert len({tuple(twice[i : i + 3]) for i in range(0, 30, 3)}) > 3


def test_every_component_is_equally_likely_on_every_manifold():
    draws = [leaf_spec_of((3, 3, 2, 3), "PI", seed=seed).draw().manifold_ids for seed in range(600)]
    allowed = 5 * math.sqrt(len(draws) * (1 / 3) * (2 / 3))  # as for groups above
    for manifold_id in range(3):
        counts = np.sum([draw == manifold_id for draw in draws], axis=0)
        assert np.max(np.abs(counts - len(draws) / 3)) < allowed


def test_a_single_manifold_is_not_drawn():
    assert leaf_spec_of((3, 3, 2, 3), "PI", fg.Sphere()).draw() == (None, None)
    assert leaf_spec_of((3, 3, 2, 3), "PI", fg.Sphere()).counts() == (6,)
    assert leaf_spec_of((3, 3, 2, 3), "PIO", fg.Sphere()).draw().manifold_ids is None


# --- the draw survives a restart -----------------------------------------------------------------


class Words:
    """The raw words of a Philox generator with key (seed, 0), one after the other."""

    def __init__(self, seed):
        self.generator = np.random.Philox(key=np.array([seed, 0], np.uint64))

    def permutations(self, count, size):
        """Permutations of range(size), one after the other, each sorts `size` words."""
        found = []
        for _ in range(count):
            words = [int(self.generator.random_raw()) for _ in range(size)]
            found.append(sorted(range(size), key=lambda index, words=words: (words[index], index)))
        return found


def redraw(scheme, shape, groups, manifold_count, seed):
    """The draw for slices of an unstacked kernel, written from its description in words.

    PIO: the k-th of n components in a random order goes to group ⌊k·groups/n⌋. Manifolds: with the
    groups in a random order, and the components of each group in a random order, components are
    assigned to the manifolds in turn.
    """
    inputs, outputs = shape[2:]
    count, words = inputs * outputs, Words(seed)
    group = [0] * count
    if scheme == "PIO":
        for rank, component in enumerate(words.permutations(1, count)[0]):
            group[component] = rank * groups // count
    else:
        for component in range(count):
            c, d = divmod(component, outputs)
            group[component] = {"PI": c, "PO": d, "layer": 0, "kernel": component}[scheme]
    manifold_id = [0] * count
    if manifold_count > 1:
        (rank_of_group,) = words.permutations(1, groups)
        (order,) = words.permutations(1, count)
        assigned = 0
        for rank in range(groups):
            for component in order:
                if rank_of_group[group[component]] == rank:
                    manifold_id[component] = assigned % manifold_count
                    assigned += 1
    return np.reshape(group, (inputs, outputs)), np.reshape(manifold_id, (inputs, outputs))


@pytest.mark.parametrize("seed", [0, 1, 2**40])
@pytest.mark.parametrize(("shape", "scheme", "groups"), MANY)
def test_a_draw_can_be_repeated_from_the_raw_words_of_philox(shape, scheme, groups, seed):
    leaf_spec = leaf_spec_of(shape, scheme, groups=groups, seed=seed)
    group, manifold_id = redraw(scheme, shape, leaf_spec.groups, 3, seed)
    drawn = leaf_spec.draw()
    np.testing.assert_array_equal(drawn.manifold_ids, manifold_id)
    if scheme == "PIO":
        np.testing.assert_array_equal(drawn.groups, group)


def test_philox_is_still_the_generator_that_was_published():
    # Known answers of Philox 4×64, 10 rounds (Salmon et al., 2011, the kat_vectors of Random123):
    # counter and key all 0. NumPy counts up before it draws, so its counter starts at −1.
    before_0 = np.full(4, 2**64 - 1, np.uint64)
    generator = np.random.Philox(counter=before_0, key=np.zeros(2, np.uint64))
    first, second, third, fourth = (int(generator.random_raw()) for _ in range(4))
    assert (first, second) == (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC)
    assert (third, fourth) == (0xD7E772CEE186176B, 0x7E68B68AEC7BA23B)


# Another process, with another hash seed: only the seed and the shape matter.
RESTART = """
import json, jax, jax.numpy as jnp, fgsgd_jax as fg
leaf = jax.ShapeDtypeStruct((3, 3, 4, 6), jnp.float32)
pom = fg.pom("PIO", (fg.Sphere(), fg.Oblique(), fg.Stiefel()), groups=5)
spec = fg.collection({"other": leaf, "w": leaf}, ("w", pom), default=None, seed=11)
print(json.dumps([part.tolist() for part in spec["w"].draw()]))
"""


@pytest.mark.slow
def test_a_draw_is_the_same_after_a_restart():
    environment = {**os.environ, "PYTHONHASHSEED": "123", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", RESTART], env=environment, capture_output=True, text=True, check=True
    )
    groups, manifold_ids = json.loads(done.stdout)
    drawn = leaf_spec_of((3, 3, 4, 6), "PIO", groups=5, seed=11).draw()
    np.testing.assert_array_equal(drawn.groups, groups)
    np.testing.assert_array_equal(drawn.manifold_ids, manifold_ids)


def test_a_draw_depends_on_the_seed_and_the_shape_and_nothing_else():
    leaf = jax.ShapeDtypeStruct((3, 3, 4, 6), jnp.float32)
    request = fg.pom("PIO", MANIFOLDS, groups=5)
    alone = fg.collection({"w": leaf}, ("w", request), seed=1)["w"].draw()
    deep = {"a": jax.ShapeDtypeStruct((3, 3, 8, 8), jnp.bfloat16), "b": {"w": leaf}}
    among = fg.collection(deep, ("b/w", request), seed=1)["b/w"].draw()
    other = fg.collection({"w": leaf}, ("w", request), seed=2)["w"].draw()
    for one, same, different in zip(alone, among, other, strict=True):
        np.testing.assert_array_equal(one, same)
        assert not np.array_equal(one, different)


def test_arrays_for_the_state_are_the_draw_by_path():
    leaf = jax.ShapeDtypeStruct((3, 3, 4, 6), jnp.float32)
    spec = fg.collection(
        {"a": leaf, "b": leaf, "c": leaf, "d": leaf},
        ("a", fg.pom("PIO", MANIFOLDS)),
        ("b", fg.pom("PI", MANIFOLDS)),
        ("c", fg.pom("PIO", fg.Sphere())),
        default=None,
    )
    assert set(spec.groups()) == {"a", "c"}
    assert set(spec.manifold_ids()) == {"a", "b"}
    np.testing.assert_array_equal(spec.groups()["c"], spec["c"].draw().groups)
    np.testing.assert_array_equal(spec.manifold_ids()["b"], spec["b"].draw().manifold_ids)
    assert all(isinstance(drawn, jax.Array) for drawn in spec.groups().values())


@pytest.mark.parametrize(
    ("scheme", "component", "shape", "role"),
    [
        ("PO", fg.Component(rows=0, columns=1, inputs=2), (3, 4, 6), "outputs"),
        ("PO", "in:rows out:columns channels:inputs", (3, 4, 6), "outputs"),
        ("PO", "heads in:rows out:columns channels:inputs", (2, 3, 4, 6), "outputs"),
        ("PI", fg.Component(rows=0, outputs=1), (8, 6), "inputs"),
    ],
)
def test_a_scheme_over_channels_that_the_component_does_not_name_is_refused(
    scheme, component, shape, role
):
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    request = fg.pom(scheme, fg.Sphere(), component=component)
    with pytest.raises(ValueError, match=f"'w' .* names no {role}, so {scheme} would .*'layer'"):
        fg.collection({"w": leaf}, ("w", request))
    request = fg.pom("layer", fg.Sphere(), component=component)
    assert fg.collection({"w": leaf}, ("w", request))["w"].groups == 1


@pytest.mark.parametrize("component", ["in:rows heads out:columns", "matrix", "filter"])
def test_one_component_in_a_layer_is_a_group_under_every_scheme(component):
    shape = (4, 2, 6) if "heads" in component else (4, 6)
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    for scheme in ("PO", "PI", "layer"):
        spec = fg.collection({"w": leaf}, ("w", fg.pom(scheme, fg.Sphere(), component=component)))
        assert spec["w"].groups == (6 if (component, scheme) == ("filter", "PO") else 1)


@pytest.mark.parametrize("groups", [1, 5, 24])
def test_every_platform_sums_drawn_groups_and_looks_their_numbers_up(groups):
    component = fg.pom("PIO", fg.Sphere(), groups=groups)
    spec = fg.collection({"w": jnp.ones((3, 3, 4, 6))}, ("w", component))
    drawn = spec.drawn_groups()["w"]
    rng = np.random.default_rng(0)
    squares, numbers = rng.random((4, 6)), rng.random(groups)
    ids = np.asarray(drawn.ids)
    expected = [squares[ids == group].sum() for group in range(groups)]
    for sums in (_groups._sums_by_lookup, _groups._sums_by_scatter, _groups._sums_by_comparison):
        np.testing.assert_allclose(sums(jnp.asarray(squares), drawn), expected, rtol=1e-6)
    for looked_up in (_groups._looked_up, _groups._looked_up_by_comparison):
        found = looked_up(jnp.asarray(numbers), drawn)
        np.testing.assert_allclose(found, numbers[ids], rtol=1e-6)

"""A spec one can look at: summary, order, folded blocks, reasons, JSON, HTML, fingerprint."""

import dataclasses
import itertools
import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgsgd_jax as fg

MIXED = (fg.Sphere(), fg.Oblique(), fg.Stiefel())


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def resnet_50():
    """The parameters of a ResNet-50 as Flax's example names them: 161 leaves."""
    params = {"conv_init": {"kernel": leaf(7, 7, 3, 64)}, "bn_init": norm(64)}
    inputs, block = 64, 0
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for first in [True] + [False] * (blocks - 1):
            params[f"BottleneckResNetBlock_{block}"] = bottleneck(inputs, width, first)
            inputs, block = 4 * width, block + 1
    return params | {"Dense_0": {"kernel": leaf(2048, 1000), "bias": leaf(1000)}}


def bottleneck(inputs, width, first):
    kernels = [(1, 1, inputs, width), (3, 3, width, width), (1, 1, width, 4 * width)]
    layers = {f"Conv_{i}": {"kernel": leaf(*shape)} for i, shape in enumerate(kernels)}
    layers |= {f"BatchNorm_{i}": norm(size) for i, size in enumerate((width, width, 4 * width))}
    if first:
        layers["conv_proj"] = {"kernel": leaf(1, 1, inputs, 4 * width)}
        layers["norm_proj"] = norm(4 * width)
    return layers


def norm(size):
    return {"scale": leaf(size), "bias": leaf(size)}


def transformer(blocks):
    block = {"attn": {name: leaf(32, 32) for name in "qkv"}, "mlp": [leaf(32, 64), leaf(64, 32)]}
    return {"layers": [block] * blocks, "embedding": leaf(100, 32)}


SPECS = {
    "ResNet-50": lambda: fg.collection(
        resnet_50(),
        ("*Conv_1/kernel", fg.pom("PIO", MIXED)),
        ("conv_init/kernel", fg.pom("PO", fg.Sphere())),
        default=None,
    ),
    "transformer": lambda: fg.collection(
        transformer(11), ("*attn/?", fg.pom("layer", fg.Stiefel())), default=None
    ),
    "no numbers": lambda: fg.collection({"a": leaf(3, 3, 2, 4), "b": {"c": leaf(4)}}),
    "all Euclidean": lambda: fg.collection({"w1": leaf(4), "w2": leaf(5)}),
}


def rows(spec, full=False):
    """The first cells of the rows: paths. Columns are apart by two spaces, sentences are not."""
    lines = spec.table(full=full).splitlines()[2:]
    return [line.split("  ")[0] for line in lines if "  " in line]


def expanded(path):
    """All paths that a folded path stands for."""

    def numbers(text):
        for part in text.split(","):
            low, _, high = part.partition("..")
            yield from range(int(low), int(high or low) + 1)

    pieces = re.split(r"\{(.*?)\}", path)
    choices = [numbers(piece) if index % 2 else (piece,) for index, piece in enumerate(pieces)]
    return ["".join(map(str, choice)) for choice in itertools.product(*choices)]


@pytest.mark.parametrize("name", SPECS)
def test_the_summary_counts_leaves_weights_and_components(name):
    spec = SPECS[name]()
    placed = dict(spec.on_manifolds())
    weights = sum(int(np.prod(shape)) for shape in spec.shapes)
    share = 100 * sum(int(np.prod(leaf_spec.shape)) for leaf_spec in placed.values()) / weights
    line = str(spec).splitlines()[0]
    assert line.startswith(f"{len(placed)} of {len(spec)} leaves on manifolds")
    if not placed:
        assert "%" not in line
        return
    assert f" {share:.0f} % of the weights" in line
    components = sum(int(np.prod(leaf_spec.points_shape[2:])) for leaf_spec in placed.values())
    assert f" {components:,} components: " in line
    counted = [int(count.replace(",", "")) for count in re.findall(r"\w ([\d,]+)(?= · |$)", line)]
    assert sum(counted) == components


@pytest.mark.parametrize("name", SPECS)
def test_every_leaf_is_in_exactly_one_row(name):
    spec = SPECS[name]()
    assert sorted(itertools.chain(*map(expanded, rows(spec)))) == sorted(spec)
    assert sorted(rows(spec, full=True)) == sorted(spec)


def test_repeated_blocks_share_a_row():
    resnet, transformer = SPECS["ResNet-50"](), SPECS["transformer"]()
    assert len(rows(resnet)) < 45 < 161 == len(resnet)
    assert "BottleneckResNetBlock_{8..12}/Conv_1/kernel" not in rows(resnet)  # 7 is like them
    assert "BottleneckResNetBlock_{7..12}/Conv_1/kernel" in rows(resnet)
    assert "BottleneckResNetBlock_{0..15}/BatchNorm_{0..2}/scale" in rows(resnet)
    assert "layers/{0..10}/attn/q" in rows(transformer)
    assert "layers/{0..10}/mlp/{0,1}" in rows(transformer)


def test_leaves_that_differ_in_more_than_numbers_have_rows_of_their_own():
    kernel, wider = leaf(3, 3, 2, 4), leaf(3, 3, 2, 8)
    params = {"conv1": kernel, "conv2": wider, "conv3": kernel, "conv03": kernel, "norm4": leaf(4)}
    spec = fg.collection(params, ("conv*", fg.pom("PO", fg.Sphere())))
    assert sorted(rows(spec)) == ["conv03", "conv2", "conv{1,3}", "norm4"]


def test_paths_are_in_natural_order():
    params = {f"Block_{i}": {"kernel": leaf(3, 3, 2, 2 + i)} for i in (10, 2, 1, 21, 0)}
    spec = fg.collection(params)
    assert rows(spec) == [f"Block_{i}/kernel" for i in (0, 1, 2, 10, 21)]
    listed = fg.collection({"w": [leaf(3, 3, 2, 2 + i) for i in range(12)]})
    assert rows(listed) == [f"w/{i}" for i in range(12)]


def test_the_table_says_why_a_leaf_is_euclidean():
    spec = fg.collection({"kernel": leaf(3, 3, 2, 4), "bias1": leaf(4), "bias2": leaf(5)})
    told = dataclasses.replace(spec, reasons=("one axis", "frozen", ""))
    assert told == spec
    text = told.table()
    assert "bias1" in text
    assert "Euclidean (one axis)" in text
    assert "Euclidean (frozen)" in text
    assert "bias{1,2}" in dataclasses.replace(spec, reasons=("one axis", "one axis", "")).table()


def test_a_folded_row_shows_the_range_of_shapes_and_scales():
    params = {f"conv{i}": {"kernel": leaf(3, 3, 2, 4), "bias": leaf(4 * i)} for i in (1, 2, 3)}
    spec = fg.collection(params, scale=0.5)
    scales = iter((0.25, 0.5, 2.0))
    layers = tuple(
        (path, found and dataclasses.replace(found, gamma=next(scales)))
        for path, found in spec.layers
    )
    lines = dataclasses.replace(spec, layers=layers).table().splitlines()
    assert any(line.startswith("conv{1..3}/bias    (4…12,)") for line in lines)
    assert any(line.endswith("0.25 to 2") for line in lines)


def test_a_spec_is_a_container_of_paths():
    for make in SPECS.values():
        spec = make()
        assert list(spec) == [path for path, _ in spec.layers]
        assert len(spec) == len(list(spec))
        assert all(path in spec for path in spec)
        assert "nothing" not in spec
        assert 3 not in spec


def test_json_holds_what_was_decided():
    spec = SPECS["ResNet-50"]()
    content = json.loads(spec.to_json())
    assert content["fingerprint"] == spec.fingerprint
    assert [record["path"] for record in content["leaves"]] == list(spec)
    for record, (_, found) in zip(content["leaves"], spec.layers, strict=True):
        assert (record["manifolds"] is None) == (found is None)
        if found is not None:
            axes = {role: tuple(axes) for role, axes in record["axes"].items()}
            assert fg.Component(**axes) == found.component
            assert record["scheme"] == found.scheme
            assert record["seed"] == found.seed
    scaled = fg.collection({"w": leaf(3, 3, 2, 4)}, scale=np.ones((2, 1)))
    assert json.loads(scaled.to_json())["leaves"][0]["gamma"] == [[1.0], [1.0]]


def test_html_has_a_row_for_each_row_of_the_table():
    spec = SPECS["transformer"]()
    page = spec._repr_html_()
    assert page.count("<tr>") == 1 + len(rows(spec))
    assert str(spec).splitlines()[0] in page
    odd = fg.collection({"<b>": leaf(3, 3, 2, 4)})
    assert "<b>" not in odd._repr_html_()
    assert "&lt;b&gt;" in odd._repr_html_()


# --- the fingerprint -----------------------------------------------------------------------------


def fingerprint(params=None, rule=None, name="w", shape=(3, 3, 4, 8), **options):
    rule = rule or fg.pom("PIO", MIXED)
    return fg.collection({name: leaf(*shape), "b": leaf(4)}, (name, rule), **options).fingerprint


def test_the_fingerprint_depends_on_what_draws_and_radii_depend_on():
    different = [
        fingerprint(),
        fingerprint(seed=1),
        fingerprint(name="v"),
        fingerprint(shape=(3, 3, 8, 4)),
        fingerprint(rule=fg.pom("PIO", MIXED, groups=3)),
        fingerprint(rule=fg.pom("PO", MIXED)),
        fingerprint(rule=fg.pom("PIO", MIXED[::-1])),
        fingerprint(rule=fg.pom("PIO", MIXED[:2])),
        fingerprint(rule=fg.pom("PIO", fg.Sphere(), component="filter", groups=1)),
        fingerprint(scale=0.5),
        fingerprint(scale=0.25),
        fingerprint(scale="geometric"),
        fingerprint(scale="variance"),
        fingerprint(scale=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]),
    ]
    assert len(set(different)) == len(different)
    assert all(0 <= number < 2**32 for number in different)


def test_the_fingerprint_does_not_depend_on_what_may_change_during_training():
    retraction = fg.pom("PIO", (fg.Sphere(), fg.Oblique(), fg.Stiefel(retraction="qr")))
    assert fingerprint() == fingerprint(rule=retraction)
    spelled = fg.Component(rows=(0,), columns=(1,), inputs=(2,), outputs=(3,))
    assert fingerprint() == fingerprint(rule=fg.pom("PIO", MIXED, component=spelled))


@pytest.mark.slow
def test_the_fingerprint_is_the_same_in_every_process():
    program = (
        "import jax, fgsgd_jax as fg;"
        "leaf = jax.ShapeDtypeStruct((3, 3, 4, 8), 'float32');"
        "print(fg.collection({'w': leaf}).fingerprint)"
    )
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert int(other.stdout) == fg.collection({"w": leaf(3, 3, 4, 8)}).fingerprint


def test_a_path_with_braces_from_a_table_is_explained():
    params = {f"Dense_{i}": {"kernel": jnp.zeros((4, 4))} for i in range(3)}
    with pytest.raises(ValueError, match=r"folds repeated blocks .* write \* in their place"):
        fg.collection(params, ("Dense_{0,1}/kernel", None))

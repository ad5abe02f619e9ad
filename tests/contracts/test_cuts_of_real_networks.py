"""What rules, defaults and presets do to the parameters of real libraries, by shapes alone."""

import inspect
import pathlib
import re

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import fgsgd_jax as fg
from fgsgd_jax import Oblique, Sphere, Stiefel
from fgsgd_jax.spec.networks._presets import PRESETS

K = jax.random.key(0)


def leaf(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def placed(spec):
    """By path, the manifold and the shape of the points of the leaves on manifolds."""
    return {path: (str(s.manifolds[0]), s.points_shape) for path, s in spec.on_manifolds()}


def reason(spec, path):
    return dict(zip(dict(spec.layers), spec.reasons, strict=True))[path]


def arrays(module):
    return eqx.filter(module, eqx.is_array)


# --- Equinox: outputs first ----------------------------------------------------------------------


EQUINOX = {
    "Conv1d": lambda: eqx.nn.Conv1d(4, 8, 5, key=K),
    "Conv2d": lambda: eqx.nn.Conv2d(16, 32, 3, key=K),
    "depthwise": lambda: eqx.nn.Conv2d(8, 8, 3, groups=8, key=K),
    "Conv3d": lambda: eqx.nn.Conv3d(2, 4, 3, key=K),
    "Linear": lambda: eqx.nn.Linear(32, 10, key=K),
}


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("name", EQUINOX)
def test_layers_of_equinox_need_a_layout_and_get_unit_filters_with_it(name):
    params = arrays({"layer": EQUINOX[name]()})
    rule = ("layer/*", fg.pom("PO", Sphere(), component="filter"))
    with pytest.raises(ValueError, match=r"layer/weight.*layout='OIHW'"):
        fg.collection(params, rule)
    spec = fg.collection(params, rule, layout="OIHW")
    assert reason(spec, "layer/bias")
    weight = np.asarray(fg.project(params, spec)["layer"].weight)
    norms = np.linalg.norm(weight.reshape(len(weight), -1), axis=1)  # outputs are the first axis
    np.testing.assert_allclose(norms, 1, rtol=1e-6)


@pytest.mark.slow
def test_slices_of_an_equinox_kernel_are_its_last_two_axes():
    params = arrays({"conv": eqx.nn.Conv2d(3, 5, 3, key=K)})
    spec = fg.collection(params, ("conv/weight", fg.pom("PO", Sphere(), layout="OIHW")))
    weight = np.asarray(fg.project(params, spec)["conv"].weight)
    np.testing.assert_allclose(np.linalg.norm(weight, axis=(2, 3)), 1, rtol=1e-6)


# --- defaults that cannot be misread -------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("attn/query/kernel", (2, 2, 32, 8)),
        ("experts/kernel", (3, 4, 32, 8)),
        ("layers/attn/query/kernel", (8, 2, 32, 64)),
        ("layers/mlp/kernel", (64, 12, 8, 16)),
        ("w", (2, 2, 32, 8)),
        ("w", (3, 4, 32, 8)),
        ("attention/kernel", (3, 3, 32, 8)),
        ("MoeBlock_0/kernel", (5, 5, 8, 8)),
        ("conv/kernel", (4, 3, 3, 8, 8)),
        ("conv/kernel", (3, 3, 3, 8, 8)),
        ("conv/kernel", (12, 5, 8, 8)),
    ],
)
def test_heads_experts_and_stacks_are_euclidean_by_default_and_say_why(path, shape):
    spec = fg.collection({path: leaf(*shape)})
    assert spec[path] is None
    assert reason(spec, path) not in ("", "default=None")


@pytest.mark.parametrize(
    ("path", "shape", "layout", "points"),
    [
        ("conv/kernel", (4, 3, 3, 8, 8), "SHWIO", (3, 3, 4, 8, 8)),
        ("conv/kernel", (3, 3, 3, 8, 8), "DHWIO", (9, 3, 8, 8)),
        ("conv/kernel", (3, 3, 8, 8, 4), "HWIOS", (3, 3, 8, 8, 4)),
        ("Conv_0/kernel", (5, 5, 1, 32), None, (5, 5, 1, 32)),
        ("kernel", (3, 3, 4, 8), None, (3, 3, 4, 8)),
        ("conv/weight", (8, 4, 3, 3), "OIHW", (3, 3, 8, 4)),
        ("conv/kernel", (5, 2, 4, 8), "HWIO", (5, 2, 4, 8)),
    ],
)
def test_convolutions_by_path_and_shape_are_cut_by_default(path, shape, layout, points):
    assert fg.collection({path: leaf(*shape)}, layout=layout)[path].points_shape == points


@pytest.mark.parametrize(
    ("shape", "points"), [((5, 8, 16), (5, 1, 8, 16)), ((2, 3, 5), (2, 1, 3, 5))]
)
def test_kernels_of_one_axis_are_cut_by_a_rule(shape, points):
    rule = ("conv/kernel", fg.pom("PO", fg.Euclidean()))
    assert (
        fg.collection({"conv": {"kernel": leaf(*shape)}}, rule)["conv/kernel"].points_shape
        == points
    )


@pytest.mark.parametrize(
    "path",
    ["dense/bias", "norm/scale", "layer_norm/w", "mlp/b", "bn/gamma", "bn/beta", "ln/offset"],
)
def test_a_pom_as_default_passes_over_stacked_biases_and_normalization(path):
    params = {path: leaf(5, 10), "dense/kernel": leaf(5, 10, 10)}
    spec = fg.collection(params, default=fg.pom("layer", Stiefel(), layout="SIO"))
    assert spec[path] is None
    assert "by its path" in reason(spec, path)
    assert spec["dense/kernel"].points_shape == (10, 10, 5)


@pytest.mark.parametrize("path", ["embed/embedding", "Embed_0/embedding", "wte/w", "router/kernel"])
def test_embeddings_and_routers_are_euclidean_in_every_default(path):
    params = {path: leaf(1000, 32), "dense": {"kernel": leaf(32, 32)}}
    for options in (
        dict(default=fg.pom("PO", Sphere())),
        dict(default="by shape"),
        dict(preset="transformer"),
        dict(preset="mlp"),
    ):
        if options.get("preset") == "mlp":
            params["out"] = {"kernel": leaf(32, 4)}
        assert fg.collection(params, **options)[path] is None


@pytest.mark.parametrize("manifold", [Sphere(), Oblique(), Stiefel()])
@pytest.mark.parametrize("path", ["embed/embedding", "token_embedder/input_embedding"])
def test_a_rule_for_an_embedding_says_which_axis(path, manifold):
    params = {path: leaf(1000, 32)}
    with pytest.raises(ValueError, match=r"component='row'.*columns.*component='inputs"):
        fg.collection(params, ("*embed*/*embedding", fg.pom("PO", manifold)))
    by_rows = fg.collection(params, (path, fg.pom("PO", Sphere(), component="row")))
    assert by_rows[path].points_shape == (32, 1, 1000)
    columns = fg.pom("PO", Sphere(), component="inputs:rows outputs")
    assert fg.collection(params, (path, columns))[path].points_shape == (1000, 1, 32)


@pytest.mark.parametrize("shape", [(8, 4), (1, 1, 8, 4), (64, 64)])
@pytest.mark.parametrize("scheme", ["PIO", "PO", "layer"])
def test_several_manifolds_need_several_components(shape, scheme):
    mixed = fg.pom(scheme, (Sphere(), Oblique(), Stiefel()))
    with pytest.raises(ValueError, match=r"1 component, too few for 3 manifolds. Give one manif"):
        fg.collection({"w": leaf(*shape)}, ("w", mixed))  # no vector is on Stiefel()
    vectors = fg.pom(scheme, (Sphere(), Oblique()), component="matrix")
    with pytest.raises(ValueError, match=rf"component='filter', of which there are {shape[-1]}"):
        fg.collection({"w": leaf(*shape)}, ("w", vectors))
    filters = fg.pom(scheme, (Sphere(), Oblique()), component="filter")
    assert min(fg.collection({"w": leaf(*shape)}, ("w", filters))["w"].counts()) > 0


@pytest.mark.parametrize("glob", ["conv/*", "*", "conv*"])
def test_a_rule_over_a_layer_passes_over_its_bias(glob):
    params = {"conv": {"kernel": leaf(3, 3, 4, 8), "bias": leaf(8), "scale": leaf(2, 8)}}
    spec = fg.collection(params, (glob, fg.pom("PO", Sphere())))
    assert set(placed(spec)) == {"conv/kernel"}
    assert reason(spec, "conv/bias") == "fewer than two axes"
    # A rule for the bias alone cannot mean anything else, so it is not passed over.
    with pytest.raises(ValueError, match="'conv/bias' has shape"):
        fg.collection(params, ("conv/bias", fg.pom("PO", Sphere())))


@pytest.mark.parametrize("rule", ["", "*"])
def test_a_bare_array_can_be_named_by_a_rule(rule):
    assert fg.collection(leaf(8, 4), (rule, fg.pom("PO", Sphere())))[""].points_shape == (8, 1, 4)
    with pytest.raises(ValueError, match="'' matches no leaf"):
        fg.collection({"w": leaf(8, 4)}, ("", fg.pom("PO", Sphere())))


@pytest.mark.parametrize("dtype", [jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.bool_, jnp.int8])
def test_leaves_without_a_usable_dtype_are_euclidean_or_refused(dtype):
    params = {"conv": {"kernel": leaf(3, 3, 4, 8, dtype=dtype)}}
    for default in ("by shape", fg.pom("PO", Sphere())):
        spec = fg.collection(params, default=default)
        assert jnp.dtype(dtype).name in reason(spec, "conv/kernel")
    with pytest.raises(ValueError, match=f"{jnp.dtype(dtype).name}.*16 bits"):
        fg.collection(params, ("conv/kernel", fg.pom("PO", Sphere())))


@pytest.mark.parametrize(
    ("given", "meant"), [("po", "PO"), ("pio", "PIO"), ("Layer", "layer"), ("kernels", "kernel")]
)
def test_a_scheme_in_another_spelling_is_answered_with_the_scheme_that_is_meant(given, meant):
    with pytest.raises(ValueError, match=f"`scheme` must be one of .* Did you mean '{meant}'\\?"):
        fg.pom(given, fg.Sphere())


@pytest.mark.parametrize("scheme", ["PI", "PO", "layer"])
@pytest.mark.parametrize("manifold", [Sphere(), (Sphere(), Stiefel())])
def test_swapped_arguments_of_pom_are_put_right(scheme, manifold):
    with pytest.raises(ValueError, match=re.escape(f"pom({scheme!r}, {manifold!r})")):
        fg.pom(manifold, scheme)


@pytest.mark.parametrize("shape", [(8, 2, 4), (2, 3, 3, 2, 4)])
def test_the_hint_for_unknown_axes_names_layouts_that_work(shape):
    with pytest.raises(ValueError, match="Give layout=") as raised:
        fg.collection({"w": leaf(*shape)}, ("w", fg.pom("PO", Sphere())))
    layouts = re.findall(r"'([A-Z]+)'", str(raised.value).split("nothing says")[1])
    assert len(layouts) == 2
    for layout in layouts:
        assert fg.collection({"w": leaf(*shape)}, ("w", fg.pom("PO", Sphere())), layout=layout)["w"]


# --- presets on real trees -----------------------------------------------------------------------


class Block(linen.Module):
    filters: int
    strides: int = 1

    @linen.compact
    def __call__(self, x):
        y = linen.Conv(self.filters, (3, 3), (self.strides, self.strides), use_bias=False)(x)
        y = linen.relu(linen.BatchNorm(use_running_average=True)(y))
        y = linen.BatchNorm(use_running_average=True)(linen.Conv(self.filters, (3, 3))(y))
        if x.shape != y.shape:
            x = linen.Conv(self.filters, (1, 1), (self.strides, self.strides), name="conv_proj")(x)
            x = linen.BatchNorm(use_running_average=True, name="norm_proj")(x)
        return linen.relu(x + y)


class ResNet(linen.Module):
    """Flax's example, at a small size."""

    @linen.compact
    def __call__(self, x):
        x = linen.Conv(8, (7, 7), (2, 2), name="conv_init")(x)
        x = linen.BatchNorm(use_running_average=True, name="bn_init")(x)
        for filters, strides in ((8, 1), (16, 2)):
            x = Block(filters, strides)(x)
        return linen.Dense(10)(x.mean((1, 2)))


class LinenCNN(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Conv(8, (3, 3))(x))
        x = linen.relu(linen.Conv(16, (3, 3))(x))
        return linen.Dense(10)(linen.relu(linen.Dense(32)(x.reshape(len(x), -1))))


class NnxCNN(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Conv(1, 8, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(8, 16, (3, 3), rngs=rngs)
        self.linear = nnx.Linear(16, 10, rngs=rngs)


def params_of(module, *inputs):
    return jax.eval_shape(lambda: module.init(K, *inputs))["params"]


def state_of(build):
    return nnx.state(nnx.eval_shape(lambda: build(nnx.Rngs(0))), nnx.Param)


def test_the_resnet_preset_cuts_every_convolution_of_flaxs_resnet():
    spec = fg.collection(params_of(ResNet(), jnp.ones((1, 16, 16, 3))), preset="resnet")
    expected = {
        "conv_init/kernel": (7 * 7 * 3, 1, 8),
        "Block_0/Conv_0/kernel": (3 * 3 * 8, 1, 8),
        "Block_0/Conv_1/kernel": (3 * 3 * 8, 1, 8),
        "Block_1/Conv_0/kernel": (3 * 3 * 8, 1, 16),
        "Block_1/Conv_1/kernel": (3 * 3 * 16, 1, 16),
        "Block_1/conv_proj/kernel": (8, 1, 16),
    }
    assert placed(spec) == {path: ("Sphere()", points) for path, points in expected.items()}
    assert {spec[path].gamma for path in expected} == {None}  # batch normalization follows
    assert reason(spec, "Dense_0/kernel") == "dense by its path"
    assert reason(spec, "bn_init/scale") == "fewer than two axes"


@pytest.mark.parametrize("library", ["linen", "nnx", "equinox"])
def test_the_resnet_preset_keeps_the_variance_without_normalization(library):
    params = {
        "linen": lambda: params_of(LinenCNN(), jnp.ones((1, 8, 8, 1))),
        "nnx": lambda: state_of(NnxCNN),
        "equinox": lambda: arrays(
            {"conv1": eqx.nn.Conv2d(1, 8, 3, key=K), "conv2": eqx.nn.Conv2d(8, 16, 3, key=K)}
            | {"linear": eqx.nn.Linear(16, 10, key=K)}
        ),
    }[library]()
    layout = "OIHW" if library == "equinox" else None
    spec = fg.collection(params, preset="resnet", layout=layout)
    gammas = [leaf_spec.gamma for _, leaf_spec in spec.on_manifolds()]
    np.testing.assert_allclose(gammas, [np.sqrt(2)] * 2)  # of a whole filter


def linen_convolution(normalized: bool):
    class Block(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.Conv(8, (3, 3))(x)
            return linen.GroupNorm(4)(x) if normalized else x

    return Block


def linen_branches():
    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            trunk = linen_convolution(normalized=True)(name="trunk")(x)
            return trunk + linen_convolution(normalized=False)(name="branch")(x)

    return params_of(Network(), jnp.ones((1, 8, 8, 8)))


def nnx_branches():
    class Block(nnx.Module):
        def __init__(self, normalized, rngs):
            self.conv = nnx.Conv(8, 8, (3, 3), rngs=rngs)
            self.bn = nnx.BatchNorm(8, rngs=rngs) if normalized else None

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.trunk, self.branch = Block(True, rngs), Block(False, rngs)

    return state_of(Network)


def equinox_branches():
    def conv():
        return eqx.nn.Conv2d(8, 8, 3, key=K)

    trunk = eqx.nn.Sequential([conv(), eqx.nn.GroupNorm(4, 8)])
    return arrays({"trunk": trunk, "branch": eqx.nn.Sequential([conv()])})


def haiku_branches():
    conv = {"w": leaf(3, 3, 8, 8), "b": leaf(8)}
    norm = {"scale": leaf(1, 1, 1, 8), "offset": leaf(1, 1, 1, 8)}
    return {
        "net/trunk/~/conv2_d": conv,
        "net/trunk/~/batch_norm": norm,
        "net/branch/~/conv2_d": conv,
    }


BRANCHES = {
    "linen": (linen_branches, None),
    "nnx": (nnx_branches, None),
    "equinox": (equinox_branches, "OIHW"),
    "haiku": (haiku_branches, None),
}


@pytest.mark.parametrize("library", BRANCHES)
def test_a_branch_without_normalization_keeps_the_variance_beside_a_normalized_trunk(library):
    build, layout = BRANCHES[library]
    spec = fg.collection(build(), preset="resnet", layout=layout)
    gammas = {path.split("/~")[0]: leaf_spec.gamma for path, leaf_spec in spec.on_manifolds()}
    trunk, branch = sorted(gammas, key=lambda path: "branch" in path)
    assert gammas[trunk] is None
    np.testing.assert_allclose(gammas[branch], np.sqrt(2))  # of a whole filter


CONV, SCALE = leaf(3, 3, 8, 8), leaf(8)
NORMALIZED_IN_PART = {
    "of the input": {"norm": {"scale": SCALE}}
    | {f"block_{i}": {f"conv_{j}": {"kernel": CONV} for j in range(2)} for i in range(2)},
    "of the input, in one block": {"BatchNorm_0": {"scale": SCALE}}
    | {f"Conv_{i}": {"kernel": CONV} for i in range(2)},
    "in the head": {
        "layers": [{"conv": {"kernel": CONV}} for _ in range(2)],
        "head": {"norm": {"scale": SCALE}, "dense": {"kernel": leaf(8, 10)}},
    },
}


@pytest.mark.parametrize("where", NORMALIZED_IN_PART)
def test_one_normalization_elsewhere_does_not_keep_the_variance_of_convolutions(where):
    spec = fg.collection(NORMALIZED_IN_PART[where], preset="resnet")
    gammas = [leaf_spec.gamma for _, leaf_spec in spec.on_manifolds()]
    np.testing.assert_allclose(gammas, np.full(len(gammas), np.sqrt(2)))


def test_the_mlp_preset_keeps_the_variance_behind_a_normalization_of_the_input_alone():
    dense = {f"linear{i}": {"kernel": leaf(8, 8), "bias": leaf(8)} for i in range(4)}
    gammas = {
        norms: [
            leaf_spec.gamma
            for _, leaf_spec in fg.collection(
                dense | {f"norm{i}": {"scale": leaf(8)} for i in range(norms)}, preset="mlp"
            ).on_manifolds()
        ]
        for norms in (1, 3)
    }
    # The squares of the weights into an output of a square orthogonal matrix sum to 1, not to 2.
    np.testing.assert_allclose(gammas[1], np.full(3, np.sqrt(2)))
    assert gammas[3] == [None] * 3


SCANNED = {
    "SHWIO": ({"kernel": leaf(4, 3, 3, 8, 8)}, {"scale": leaf(4, 8)}),
    "SOIHW": ({"weight": leaf(4, 8, 8, 3, 3)}, {"weight": leaf(4, 8), "bias": leaf(4, 8)}),
}


@pytest.mark.parametrize("layout", SCANNED)
def test_normalization_of_scanned_blocks_is_found(layout):
    conv, last = SCANNED[layout]
    params = {"blocks": {"conv": conv, "last": last}, "plain": {"conv": conv}}
    (_, scanned), (_, plain) = fg.collection(params, preset="resnet", layout=layout).on_manifolds()
    assert scanned.gamma is None
    np.testing.assert_allclose(plain.gamma, np.sqrt(2))


def test_the_transformer_preset_puts_heads_on_stiefel_in_nnx_and_linen():
    class VitBlock(nnx.Module):
        def __init__(self, rngs):
            self.norm1 = nnx.LayerNorm(32, rngs=rngs)
            self.attn = nnx.MultiHeadAttention(4, 32, decode=False, rngs=rngs)
            self.mlp = nnx.List([nnx.Linear(32, 64, rngs=rngs), nnx.Linear(64, 32, rngs=rngs)])
            self.head = nnx.Linear(32, 10, rngs=rngs)

    ours = placed(fg.collection(state_of(VitBlock), preset="transformer"))
    assert ours == {
        "attn/key/kernel": ("Stiefel()", (32, 8, 4)),
        "attn/query/kernel": ("Stiefel()", (32, 8, 4)),
        "attn/value/kernel": ("Stiefel()", (32, 8, 4)),
        "attn/out/kernel": ("Stiefel()", (32, 32)),
        "mlp/0/kernel": ("Oblique()", (32, 64)),
        "mlp/1/kernel": ("Oblique()", (64, 32)),
    }
    attention = linen.MultiHeadDotProductAttention(num_heads=4)
    tree = {"MultiHeadDotProductAttention_0": params_of(attention, jnp.ones((1, 5, 32)))}
    linens = placed(fg.collection(tree, preset="transformer"))
    prefix = "MultiHeadDotProductAttention_0/"
    assert {path.removeprefix(prefix): where for path, where in linens.items()} == {
        path.removeprefix("attn/"): where for path, where in ours.items() if "attn" in path
    }


def unnamed(width, classes, blocks=1, **more):
    """The shapes of a transformer of Flax whose dense layers are called by numbers."""
    tree = {"Embed_0": {"embedding": leaf(classes, width)}} | more
    for i in range(blocks):
        inner = {
            "SelfAttention_0": {
                name: {"kernel": leaf(width, 4, width // 4)} for name in ("query", "key", "value")
            },
            "LayerNorm_0": {"scale": leaf(width)},
            "Dense_0": {"kernel": leaf(width, 4 * width), "bias": leaf(4 * width)},
            "Dense_1": {"kernel": leaf(4 * width, width), "bias": leaf(width)},
        }
        tree |= {f"Block_{i}": inner} if blocks > 1 else inner
    last = "Dense_0" if blocks > 1 else "Dense_2"
    return tree | {last: {"kernel": leaf(width, classes), "bias": leaf(classes)}}


@pytest.mark.parametrize(
    ("params", "head"),
    [
        (unnamed(32, 10), "Dense_2/kernel"),
        (unnamed(16, 1000, blocks=3), "Dense_0/kernel"),
        (unnamed(32, 128, blocks=2), "Dense_0/kernel"),  # as wide as the layers inside a block
        (unnamed(32, 50, LayerNorm_1={"scale": leaf(32)}), "Dense_2/kernel"),
    ],
    ids=["one module", "blocks", "inner width", "final norm"],
)
def test_the_transformer_preset_leaves_a_dense_layer_euclidean_that_nothing_reads(params, head):
    spec = fg.collection(params, preset="transformer")
    assert reason(spec, head) == "the last dense layer"
    dense = {path for path, s in spec.layers if "Dense" in path and "kernel" in path}
    assert {path for path in placed(spec) if "Dense" in path} == dense - {head}


PATCHES = {"Embed_0": {"embedding": leaf(49, 32)}}  # not of the entries that a head predicts


@pytest.mark.parametrize("head", [{}, {"value_head": {"kernel": leaf(32, 7)}}])
@pytest.mark.parametrize("module", ["Dense_9", "lm"])
def test_a_dense_layer_with_the_transposed_shape_of_an_embedding_predicts_its_entries(head, module):
    params = unnamed(32, 10, blocks=2, **head)
    last = params.pop("Dense_0")
    params[module] = last if module != "lm" else {"linear": last}
    spec = fg.collection(params, preset="transformer")
    (path,) = (path for path in spec if path.startswith(module) and path.endswith("kernel"))
    assert reason(spec, path) == "the last dense layer"
    assert "may give the output" not in str(spec)


@pytest.mark.parametrize(
    "params",
    [
        unnamed(32, 32),  # as wide as what it reads
        unnamed(32, 10, head={"kernel": leaf(32, 7)}, **PATCHES),  # a head is named
        unnamed(32, 10, Dense_9={"kernel": leaf(64, 32)}, **PATCHES),  # another is the last
    ],
    ids=["width", "named head", "not the last"],
)
def test_the_transformer_preset_takes_a_dense_layer_that_may_be_read_for_a_hidden_one(params):
    spec = fg.collection(params, preset="transformer")
    dense = {path for path in spec if "Dense" in path and path.endswith("kernel")}
    assert dense <= set(placed(spec))


GEMMA = {
    "attn": {
        "q_einsum": {"w": leaf(8, 64, 16)},
        "kv_einsum": {"w": leaf(2, 4, 64, 16)},
        "attn_vec_einsum": {"w": leaf(8, 16, 64)},
    },
    "mlp": {"gating_einsum": leaf(2, 64, 128), "linear": leaf(128, 64)},
    "pre_attention_norm": {"scale": leaf(64)},
}


@pytest.mark.parametrize("layers", [0, 3])
def test_the_transformer_preset_reads_a_gemma_block_scanned_or_not(layers):
    tree = jax.tree.map(lambda x: leaf(*[layers] * (layers > 0), *x.shape), GEMMA)
    layout = "SIO" if layers else None
    spec = fg.collection(tree, preset="transformer", layout=layout)
    stack = (layers,) if layers else ()
    assert placed(spec) == {
        "attn/attn_vec_einsum/w": ("Stiefel()", (128, 64, *stack)),
        "attn/kv_einsum/w": ("Stiefel()", (64, 16, *stack, 2, 4)),
        "attn/q_einsum/w": ("Stiefel()", (64, 16, *stack, 8)),
        "mlp/gating_einsum": ("Oblique()", (64, 128, *stack, 2)),
        "mlp/linear": ("Oblique()", (128, 64, *stack)),
    }


@pytest.mark.parametrize(
    ("build", "points"),
    [
        (lambda r: nnx.SimpleCell(6, 8, rngs=r), {"dense_h/kernel": (8, 8)}),
        (lambda r: nnx.OptimizedLSTMCell(6, 8, rngs=r), {"dense_h/kernel": (8, 8, 4)}),
        (lambda r: nnx.GRUCell(6, 8, rngs=r), {"dense_h/kernel": (8, 8, 3)}),
        (
            lambda r: nnx.LSTMCell(6, 8, rngs=r),
            {f"h{gate}/kernel": (8, 8) for gate in "fgio"},
        ),
    ],
    ids=["simple", "optimized LSTM", "GRU", "LSTM"],
)
def test_the_rnn_preset_finds_the_recurrent_matrices_of_nnx(build, points):
    spec = fg.collection({"rnn": {"cell": nnx.as_pure(state_of(build))}}, preset="rnn")
    assert placed(spec) == {
        f"rnn/cell/{path}": ("Stiefel()", shape) for path, shape in points.items()
    }


def test_the_rnn_preset_finds_the_recurrent_matrices_of_linen_and_equinox():
    cell = linen.GRUCell(8)
    params = jax.eval_shape(lambda: cell.init(K, jnp.ones((1, 8)), jnp.ones((1, 6))))["params"]
    assert set(placed(fg.collection(params, preset="rnn"))) == {f"h{gate}/kernel" for gate in "nrz"}
    params = arrays({"cell": eqx.nn.LSTMCell(6, 8, key=K)})
    spec = fg.collection(params, preset="rnn", layout="OIHW")
    assert placed(spec) == {"cell/weight_hh": ("Stiefel()", (8, 8, 4))}


HAIKU = {  # as Haiku 0.0.17 names and shapes the weights of these layers
    "resnet": (
        {"net/~/conv2_d": {"w": leaf(3, 3, 2, 8), "b": leaf(8)}, "net/~/logits": {"w": leaf(8, 3)}},
        {"net/~/conv2_d/w": ("Sphere()", (3 * 3 * 2, 1, 8))},
    ),
    "transformer": (
        {f"multi_head_attention/{name}": {"w": leaf(32, 32)} for name in ("query", "linear")},
        {f"multi_head_attention/{name}/w": ("Stiefel()", (32, 32)) for name in ("query", "linear")},
    ),
    "rnn": (
        {"gru": {"b": leaf(24), "w_h": leaf(8, 24), "w_i": leaf(6, 24)}},
        {"gru/w_h": ("Stiefel()", (8, 8, 3))},
    ),
    "mlp": (
        {"mlp/~/linear_0": {"w": leaf(4, 8)}, "mlp/~/linear_1": {"w": leaf(8, 3), "b": leaf(3)}},
        {"mlp/~/linear_0/w": ("Stiefel()", (4, 8))},
    ),
}


def test_the_rnn_preset_tells_the_two_matrices_of_haikus_vanilla_rnn_apart():
    params = {  # as Haiku 0.0.17 names them, for features as many as hidden units and for others
        f"{name}/{linear}": {"w": leaf(inputs, 4), "b": leaf(4)}
        for name, size in (("vanilla_rnn", 4), ("net/~/vanilla_rnn_1", 3))
        for linear, inputs in (("linear", size), ("linear_1", 4))
    }
    spec = fg.collection(params | {"linear_1": {"w": leaf(4, 4)}}, preset="rnn")
    assert set(placed(spec)) == {"vanilla_rnn/linear_1/w", "net/~/vanilla_rnn_1/linear_1/w"}


@pytest.mark.parametrize(("path", "inputs"), [("lstm/linear", 3), ("net/~/lstm_1/linear", 4)])
def test_haikus_lstm_has_one_weight_for_two_matrices_and_stays_euclidean(path, inputs):
    params = {path: {"w": leaf(inputs + 4, 16), "b": leaf(16)}}
    with pytest.raises(ValueError, match=rf"'{path}/w' holds the input and the recurrent.*GRU"):
        fg.collection(params, preset="rnn")
    spec = fg.collection(params | {"gru": {"w_h": leaf(8, 24)}}, preset="rnn")
    assert set(placed(spec)) == {"gru/w_h"}
    assert reason(spec, f"{path}/w") == "input and recurrent matrices in one weight"


@pytest.mark.slow
@pytest.mark.parametrize("heads", [2, 4])
def test_attention_of_equinox_is_cut_per_head_where_a_rule_gives_their_number(heads):
    params = {"attention": arrays(eqx.nn.MultiheadAttention(heads, 8, key=K))}
    inward = f"(heads={heads}:stack out:columns) in:rows"
    outward = f"out:columns (heads={heads}:stack in:rows)"
    spec = fg.collection(
        params,
        ("attention/output_proj/*", fg.pom("layer", Stiefel(), component=outward)),
        ("attention/*_proj/*", fg.pom("layer", Stiefel(), component=inward)),
    )
    weights = fg.project(params, spec)["attention"]
    size = 8 // heads
    for projection in (weights.query_proj, weights.key_proj, weights.value_proj):
        for rows in np.split(np.asarray(projection.weight), heads):  # queries are weight @ x
            np.testing.assert_allclose(rows @ rows.T, np.eye(size), atol=2e-6)
    for columns in np.split(np.asarray(weights.output_proj.weight), heads, axis=1):
        np.testing.assert_allclose(columns.T @ columns, np.eye(size), atol=2e-6)


@pytest.mark.parametrize("preset", HAIKU)
def test_presets_read_the_spelling_of_haiku(preset):
    params, expected = HAIKU[preset]
    assert placed(fg.collection(params, preset=preset)) == dict(sorted(expected.items()))


def test_the_mlp_preset_leaves_the_last_layer_euclidean():
    class MLP(linen.Module):
        @linen.compact
        def __call__(self, x):
            for size in [16] * 11 + [4]:
                x = linen.Dense(size)(x)
            return x

    spec = fg.collection(params_of(MLP(), jnp.ones((1, 8))), preset="mlp")
    assert set(placed(spec)) == {f"Dense_{i}/kernel" for i in range(11)}  # 11 comes after 2
    assert reason(spec, "Dense_11/kernel") == "the last dense layer"
    assert spec["Dense_1/kernel"].gamma == pytest.approx(np.sqrt(2))
    params = arrays(eqx.nn.MLP(8, 4, 16, 2, key=K))
    spec = fg.collection(params, preset="mlp", layout="OIHW")
    assert placed(spec) == {
        "layers/0/weight": ("Stiefel()", (8, 16)),
        "layers/1/weight": ("Stiefel()", (16, 16)),
    }


def test_rules_stand_on_top_of_a_preset():
    params = params_of(LinenCNN(), jnp.ones((1, 8, 8, 1)))
    rules = ("Conv_0/*", None), ("Dense_0/kernel", fg.pom("layer", Stiefel()))
    spec = fg.collection(params, *rules, preset="resnet")
    assert set(placed(spec)) == {"Conv_1/kernel", "Dense_0/kernel"}
    assert reason(spec, "Conv_0/kernel") == "a rule says so"


def test_the_table_of_presets_says_what_they_do():
    def cell(placement):
        scale = placement.scale
        gain = f"variance, gain {scale[1]:g}" if isinstance(scale, tuple) else str(scale or 1)
        cuts = ", ".join(f"{axes}: `{cut}`" for axes, cut in placement.cuts.items())
        return f"{placement.weight} | {cuts} | {placement.manifold} | {placement.scheme} | {gain}"

    readme = (pathlib.Path(fg.__file__).parent / "spec" / "README.md").read_text()
    rows = [row for row in readme.splitlines() if re.match(r'\| "(resnet|transf|mlp|rnn)', row)]
    assert rows == [
        f'| "{name}" | {cell(placement)} | {preset.rate} |'
        for name, preset in PRESETS.items()
        for placement in preset.placements
    ]


@pytest.mark.parametrize("preset", ["resnt", "Transformer", 3, True, ["mlp"]])
def test_an_unknown_preset_is_refused(preset):
    with pytest.raises(ValueError, match="`preset` must be one of 'resnet'"):
        fg.collection({"w": leaf(3, 3, 4, 8)}, preset=preset)


def test_a_preset_without_effect_and_a_preset_with_a_default_are_refused():
    for preset in ("resnet", "rnn", "transformer"):
        with pytest.raises(ValueError, match=f"preset='{preset}' finds no"):
            fg.collection({"w": leaf(8, 8)}, preset=preset)
    with pytest.raises(ValueError, match="stands in place of a default"):
        fg.collection({"w": leaf(3, 3, 4, 8)}, preset="resnet", default=None)


# --- lines needed --------------------------------------------------------------------------------


def mnist_cnn_in_nnx(model):
    spec = fg.collection(nnx.state(model, nnx.Param), preset="resnet")
    nnx.update(model, fg.project(nnx.state(model, nnx.Param), spec))
    nnx.Optimizer(model, fg.fgsgd(0.1, spec, momentum=0.9), wrt=nnx.Param)
    return spec, nnx.state(model, nnx.Param)


def resnet_in_a_linen_train_state(model, params):
    spec = fg.collection(params, preset="resnet")
    tx = fg.fgsgd(0.1, spec, momentum=0.9)
    state = TrainState.create(apply_fn=model.apply, params=fg.project(params, spec), tx=tx)
    return spec, state.params


def gemma_block_with_stiefel_per_head(params):
    spec = fg.collection(params, preset="transformer")
    params = fg.project(params, spec)
    fg.manifold_muon(0.02, spec).init(params)
    return spec, params


def equinox_cnn(params):
    spec = fg.collection(params, preset="resnet", layout="OIHW")
    params = fg.project(params, spec)
    fg.fgsgd(0.1, spec).init(params)
    return spec, params


def scanned_transformer(params):
    spec = fg.collection(params, preset="transformer", layout="SIO")
    params = fg.project(params, spec)
    fg.fgsgd(0.1, spec).init(params)
    return spec, params


def lora(params):
    spec = fg.collection(params, ("*/lora_a", fg.pom("layer", fg.Stiefel())), default=None)
    params = fg.project(params, spec)
    fg.fgsgd(0.1, spec).init(params)
    return spec, params


def drawn(shapes, stacked=()):
    return jax.tree.map(lambda x: jax.random.normal(K, (*stacked, *x.shape)), shapes)


def of_resnet():
    model = ResNet()
    return model, model.init(K, jnp.ones((1, 16, 16, 3)))["params"]


# By recipe, its arguments, and the points of one weight, `(rows, columns, *lanes)`.
RECIPES = {
    mnist_cnn_in_nnx: (lambda: [NnxCNN(nnx.Rngs(0))], "", None),
    resnet_in_a_linen_train_state: (of_resnet, "", None),
    gemma_block_with_stiefel_per_head: (lambda: [drawn(GEMMA)], "attn/q_einsum/w", (64, 16, 8)),
    equinox_cnn: (
        lambda: [arrays({f"conv{i}": eqx.nn.Conv2d(8, 8, 3, key=K) for i in range(3)})],
        "conv1/weight",
        (72, 1, 8),
    ),
    scanned_transformer: (lambda: [drawn(GEMMA, (3,))], "attn/q_einsum/w", (64, 16, 3, 8)),
    lora: (
        lambda: [{"q": {"kernel": jnp.ones((64, 64)), **drawn({"lora_a": leaf(64, 4)})}}],
        "q/lora_a",
        (64, 4),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_usual_networks_take_three_lines_of_the_library(recipe):
    assert len(re.findall(r"^.*\bfg\.", inspect.getsource(recipe), re.MULTILINE)) <= 3
    arguments, path, points = RECIPES[recipe]
    spec, params = recipe(*arguments())
    assert max(fg.residual(params, spec).values()) < 1e-5
    kernels = [leaf_spec for _, leaf_spec in spec.on_manifolds()]
    if path:
        assert spec[path].points_shape == points
    else:  # every convolution, a vector for each filter
        assert len(kernels) >= 2
        assert all(
            leaf_spec.points_shape == (*points_of_filters(leaf_spec),) for leaf_spec in kernels
        )


def points_of_filters(leaf_spec):
    *inside, outputs = leaf_spec.shape
    return np.prod(inside), 1, outputs


@pytest.mark.parametrize("name", ["down", "proj", "shortcut", "c0", "expand"])
@pytest.mark.parametrize("size", [1, 3])
def test_a_resnet_has_convolutions_under_any_name_that_names_nothing_else(name, size):
    shapes = {"conv": (3, 3, 3, 8), name: (size, size, 8, 8), "attn": (2, 2, 8, 8), "dense": (8, 4)}
    params = {
        key: {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)} for key, shape in shapes.items()
    }
    spec = fg.collection(params, preset="resnet")
    assert {path for path, _ in spec.on_manifolds()} == {"conv/kernel", f"{name}/kernel"}


def test_normalization_of_equinox_is_seen_without_a_name():
    shapes = [{"weight": (64, 64, 3, 3)}, {"weight": (64,), "bias": (64,)}] * 3
    params = {
        "layers": [
            {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in layer.items()}
            for layer in shapes
        ]
    }
    spec = fg.collection(params, preset="resnet", layout="OIHW")
    assert all(leaf_spec.gamma is None for _, leaf_spec in spec.on_manifolds())
    assert "normalization" not in str(spec)

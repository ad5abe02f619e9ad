"""Feature statistics: against layers called one by one, and two passes over all data in float64."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fgsgd_jax as fg
import fgsgd_jax.linen
import fgsgd_jax.nnx
from fgsgd_jax.experiments.models import CNN

RNG = np.random.default_rng(0)


def images(*shape: int, mean=0.5) -> np.ndarray:
    return (RNG.standard_normal(shape) + mean).astype(np.float32)


def from_numpy(key, shape, dtype, **_) -> jax.Array:
    """An initializer that needs no compilation."""
    return jnp.asarray(RNG.standard_normal(shape) / np.sqrt(np.prod(shape[:-1])), dtype)


def two_pass(features, channel_axes=(-1,)) -> np.ndarray:
    """The population standard deviation of every channel, in float64."""
    features = np.asarray(features, np.float64)
    channel_axes = [axis % features.ndim for axis in channel_axes]
    others = tuple(axis for axis in range(features.ndim) if axis not in channel_axes)
    mean = features.mean(axis=others, keepdims=True)
    return np.sqrt(((features - mean) ** 2).mean(axis=others)).ravel()


def leaves_of(state: nnx.State) -> dict:
    return {"/".join(map(str, keys)): leaf[...] for keys, leaf in nnx.to_flat_state(state)}


def assert_std(measured: dict, expected: dict, rtol=1e-6):
    assert set(measured) == set(expected)
    for path, std in expected.items():
        assert measured[path].shape == std.shape, path
        # float32 rounds the result itself by 6e-8; the rest is what 1e-6 leaves to the sums.
        np.testing.assert_allclose(measured[path], std, rtol=rtol, err_msg=path)


# --- all kinds of layers, each called by itself ---------------------------------------------------


class Zoo(nnx.Module):
    """Every kind of layer once, in a chain that the test can walk by hand."""

    def __init__(self, rngs):
        how = {"kernel_init": from_numpy, "rngs": rngs}
        self.conv = nnx.Conv(3, 8, (3, 3), **how)
        self.strided = nnx.Conv(8, 8, (3, 3), strides=2, padding="VALID", **how)
        self.dilated = nnx.Conv(8, 8, (3, 3), kernel_dilation=2, **how)
        self.grouped = nnx.Conv(8, 12, (1, 3), feature_group_count=2, **how)
        self.depthwise = nnx.Conv(12, 12, (3, 3), feature_group_count=12, **how)
        self.up = nnx.ConvTranspose(12, 6, (3, 3), strides=2, transpose_kernel=True, **how)
        self.causal = nnx.Conv(6, 6, (3,), padding="CAUSAL", **how)
        self.attention = nnx.MultiHeadAttention(2, 6, decode=False, **how)
        self.einsum = nnx.Einsum("bti,ij->btj", (6, 4), (4,), **how)
        self.head = nnx.Linear(4, 5, **how)

    def __call__(self, x):
        for layer in (self.conv, self.strided, self.dilated, self.grouped, self.depthwise, self.up):
            x = nnx.relu(layer(x))
        x = x.reshape(len(x), -1, x.shape[-1])
        x = self.einsum(self.attention(nnx.relu(self.causal(x))))
        return self.head(nnx.relu(x.mean(1)))

    def entering(self, x) -> tuple[dict, dict]:
        """The features entering every kernel, and the size of the map it gives, by hand."""
        features, sizes = {}, {}
        for name in ("conv", "strided", "dilated", "grouped", "depthwise", "up"):
            features[f"{name}/kernel"] = x
            x = nnx.relu(getattr(self, name)(x))
            sizes[f"{name}/kernel"] = x.shape[1] * x.shape[2]
        x = x.reshape(len(x), -1, x.shape[-1])
        features["causal/kernel"] = x
        x = nnx.relu(self.causal(x))
        for name in ("query", "key", "value"):
            features[f"attention/{name}/kernel"] = x
        query, key, value = (getattr(self.attention, name)(x) for name in ("query", "key", "value"))
        features["attention/out/kernel"] = nnx.dot_product_attention(query, key, value)
        x = self.attention(x)
        features["einsum/kernel"] = x
        tokens = {path: x.shape[1] for path in features if path not in sizes}
        x = nnx.relu(self.einsum(x).mean(1))
        features["head/kernel"] = x
        return features, sizes | tokens | {"head/kernel": 1}


@pytest.fixture(scope="module")
def zoo():
    return Zoo(nnx.Rngs(0))


def test_every_kind_of_layer_of_nnx(zoo):
    x = images(4, 10, 9, 3)
    features, _ = zoo.entering(x)
    expected = {path: two_pass(entering) for path, entering in features.items()}
    # Two groups of four channels: the kernel's channel c meets the channels c and 4 + c.
    grouped = np.asarray(features["grouped/kernel"])
    expected["grouped/kernel"] = two_pass(grouped.reshape(*grouped.shape[:-1], 2, 4))
    expected["depthwise/kernel"] = two_pass(np.asarray(features["depthwise/kernel"])[..., None])
    expected["attention/out/kernel"] = two_pass(features["attention/out/kernel"], (-2, -1))
    measured = fg.nnx.feature_std(zoo, x)
    # The features themselves are computed twice, each time with its own rounding.
    assert_std(measured, expected, rtol=2e-5)


def test_paths_and_lengths_are_those_of_the_collection(zoo):
    # What runs over input channels, where it is not the last axis but one.
    axes = {"up/kernel": [-1], "attention/out/kernel": [0, 1]}
    axes |= {f"attention/{name}/kernel": [0] for name in ("query", "key", "value")}
    measured = fg.nnx.feature_std(zoo, images(4, 10, 9, 3))
    shapes = {path: leaf.shape for path, leaf in leaves_of(nnx.state(zoo, nnx.Param)).items()}
    assert set(measured) == {path for path in shapes if path.endswith("kernel")}
    spec = fg.collection(nnx.state(zoo, nnx.Param), default=None)
    for path, std in measured.items():
        assert path in dict(spec.layers)
        assert len(std) == np.prod([shapes[path][axis] for axis in axes.get(path, [-2])])


def test_sizes_of_feature_maps(zoo):
    x = images(4, 10, 9, 3)
    _, sizes = zoo.entering(x)
    assert fg.nnx.feature_map_sizes(zoo, x) == sizes
    assert fg.nnx.feature_map_sizes(zoo, jax.ShapeDtypeStruct(x.shape, x.dtype)) == sizes


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x, train=False):
        x = linen.relu(linen.Conv(6, (3, 3), strides=2, name="conv")(x))
        x = linen.BatchNorm(use_running_average=not train, name="norm")(x)
        x = linen.Conv(6, (3, 3), feature_group_count=3, kernel_dilation=2, name="grouped")(x)
        x = x.reshape(len(x), -1, x.shape[-1])
        x = linen.MultiHeadDotProductAttention(2, name="attention")(x)
        twice = linen.Dense(6, name="twice")
        return linen.Dense(3, name="head")(twice(linen.relu(twice(x))).mean(1))


@pytest.mark.slow
def test_every_kind_of_layer_of_linen():
    net, x = LinenNet(), images(4, 9, 9, 2)
    variables = net.init(jax.random.key(0), x)
    inputs: dict[str, list] = {}

    def record(next_function, args, kwargs, context):
        kernel = isinstance(context.module, (linen.Conv, linen.Dense, linen.DenseGeneral))
        if kernel and context.method_name == "__call__":
            inputs.setdefault("/".join((*context.module.path, "kernel")), []).append(args[0])
        return next_function(*args, **kwargs)

    with linen.intercept_methods(record):
        net.apply(variables, x)
    expected = {
        path: two_pass(np.concatenate([np.asarray(use) for use in uses]))
        for path, uses in inputs.items()
    }
    assert len(inputs["twice/kernel"]) == 2  # a layer used twice pools both uses
    grouped = np.asarray(inputs["grouped/kernel"][0])
    expected["grouped/kernel"] = two_pass(grouped.reshape(*grouped.shape[:-1], 3, 2))
    out = inputs["attention/out/kernel"][0]
    expected["attention/out/kernel"] = two_pass(out, (-2, -1))
    assert_std(fg.linen.feature_std(net, variables, x), expected, rtol=2e-5)

    sizes = fg.linen.feature_map_sizes(net, variables, x)
    assert set(sizes) == set(expected)
    assert {path: size for path, size in sizes.items() if size != 25} == {"head/kernel": 1}
    leaves = dict(fg.collection(variables["params"], default=None).layers)
    assert set(expected) < set(leaves)


# --- layers written by hand, loops, and layers used again -----------------------------------------


class ByHand(nnx.Module):
    """Weight normalization, a transposed kernel, a stacked one, and one inside remat and jit."""

    def __init__(self):
        self.v = nnx.Param(jnp.asarray(images(4, 6)))
        self.g = nnx.Param(jnp.asarray(images(1, 6)))
        self.transposed = nnx.Param(jnp.asarray(images(5, 6)))
        self.experts = nnx.Param(jnp.asarray(images(3, 5, 2)))
        self.flat = nnx.Param(jnp.asarray(images(3, 2, 7)))
        self.stack = nnx.Param(jnp.asarray(images(2, 7, 7)))

    def entering(self, x) -> dict:
        """The features entering every kernel and their channel axes, in NumPy and float64."""
        v, g, transposed, experts, flat, stack = (
            np.asarray(getattr(self, name)[...], np.float64)
            for name in ("v", "g", "transposed", "experts", "flat", "stack")
        )
        features = {"v": (x, [-1])}
        x = np.tanh(x @ (g * v / np.sqrt((v**2).sum(0))))
        features["transposed"] = (x, [-1])
        x = x @ transposed.T
        x = np.stack([x, 2 * x, x * x], axis=1)
        features["experts"] = (x, [-2, -1])
        x = np.stack([x[:, expert] @ experts[expert] for expert in range(3)], axis=1)
        features["flat"] = (x, [-2, -1])
        layers = [x.reshape(len(x), 6) @ flat.reshape(6, 7)]
        layers.append(np.sin(layers[0] @ stack[0]))
        features["stack"] = (np.stack(layers, axis=1), [-2, -1])
        return features

    def __call__(self, x):
        v = self.v[...]
        x = jnp.tanh(x @ (self.g[...] * v / jnp.linalg.norm(v, axis=0)))
        x = jax.jit(lambda x, w: x @ w.T)(x, self.transposed[...])
        x = jnp.stack([x, 2 * x, x * x], axis=1)
        x = jax.checkpoint(lambda w: jnp.einsum("bei,eij->bej", x, w))(self.experts[...])
        # Sums over both axes, in the other order than the kernel has them.
        flat = self.flat[...].transpose(1, 0, 2).reshape(6, 7)
        x = x.transpose(0, 2, 1).reshape(len(x), 6) @ flat
        return jax.lax.scan(lambda x, w: (jnp.sin(x @ w), None), x, self.stack[...])[0]


def test_layers_written_by_hand():
    model, x = ByHand(), images(50, 4)
    expected = {path: two_pass(*features) for path, features in model.entering(x).items()}
    assert_std(fg.nnx.feature_std(model, x), expected, rtol=2e-5)


@pytest.mark.slow
def test_scanned_layers_of_flax_keep_their_own_statistics():
    class Block(linen.Module):
        @linen.compact
        def __call__(self, x, _):
            return linen.relu(linen.Dense(4, name="dense")(x)), None

    class Deep(linen.Module):
        @linen.compact
        def __call__(self, x):
            blocks = linen.scan(
                Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
            )
            return blocks(name="blocks")(linen.remat(linen.Dense)(4, name="first")(x), None)[0]

    net, x = Deep(), images(50, 4)
    variables = net.init(jax.random.key(0), x)
    params = jax.tree.map(np.asarray, variables["params"])
    y = x @ params["first"]["kernel"]
    entering = []
    for layer in range(3):
        entering.append(y)
        y = np.maximum(y @ params["blocks"]["dense"]["kernel"][layer], 0)
    expected = {
        "blocks/dense/kernel": two_pass(np.stack(entering, axis=1), (-2, -1)),
        "first/kernel": two_pass(x),
    }
    assert_std(fg.linen.feature_std(net, variables, x), expected, rtol=2e-5)


def test_a_recurrent_cell_pools_its_steps():
    class Recurrent(nnx.Module):
        def __init__(self, rngs):
            self.rnn = nnx.RNN(nnx.SimpleCell(3, 5, rngs=rngs))

        def __call__(self, x):
            return self.rnn(x)

    model, x = Recurrent(nnx.Rngs(0)), images(6, 7, 3)
    hidden = [np.zeros((6, 5), np.float32)]
    for step in range(7):
        hidden.append(np.asarray(model.rnn.cell(hidden[-1], x[:, step])[0]))
    expected = {
        "rnn/cell/dense_h/kernel": two_pass(np.stack(hidden[:-1])),
        "rnn/cell/dense_i/kernel": two_pass(x),
    }
    assert_std(fg.nnx.feature_std(model, x), expected, rtol=2e-5)


@pytest.mark.slow
def test_a_layer_used_again_pools_its_uses_and_takes_the_larger_map():
    class Again(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 3, (3, 3), strides=2, rngs=rngs)

        def __call__(self, x):
            return self.conv(self.conv(x))

    model, x = Again(nnx.Rngs(0)), images(5, 8, 8, 3)
    uses = [x.reshape(-1, 3), np.asarray(model.conv(x)).reshape(-1, 3)]
    expected = {"conv/kernel": two_pass(np.concatenate(uses))}
    assert_std(fg.nnx.feature_std(model, x), expected, rtol=2e-5)
    assert fg.nnx.feature_map_sizes(model, x) == {"conv/kernel": 16}


# --- streams of batches ---------------------------------------------------------------------------


def linear(inputs: int) -> nnx.Linear:
    return nnx.Linear(inputs, 2, kernel_init=from_numpy, rngs=nnx.Rngs(0))


def test_streams_of_batches_agree_with_two_passes_over_all_data():
    # The mean is 1,000 times the spread, and both drift from batch to batch.
    scale = np.array([1.0, 1e-3, 1e4, 1.0])
    batches = [
        (scale * (1e3 + 5 * k + (1 + k) * RNG.standard_normal((size, 4)))).astype(np.float32)
        for k, size in enumerate((64, 64, 1, 17, 64))
    ]
    expected = {"kernel": two_pass(np.concatenate(batches))}
    assert_std(fg.nnx.feature_std(linear(4), batches), expected)
    assert_std(fg.nnx.feature_std(linear(4), iter(batches)), expected)
    assert_std(fg.nnx.feature_std(linear(4), np.concatenate(batches)), expected)


def test_large_maps_lose_no_digits():
    x = images(3, 400, 401, 2, mean=1e3)
    assert_std(fg.nnx.feature_std(linear(2), x), {"kernel": two_pass(x)})


def test_constant_channels_have_deviation_zero():
    x = np.full((10, 2), np.float32(0.1))
    np.testing.assert_array_equal(fg.nnx.feature_std(linear(2), x)["kernel"], 0)


def test_nan_features_stay_visible():
    x = images(10, 2)
    x[3, 1] = np.nan
    std = fg.nnx.feature_std(linear(2), x)["kernel"]
    assert np.isfinite(std[0])
    assert np.isnan(std[1])


def test_batches_of_several_arguments_and_of_dictionaries():
    class Two(nnx.Module):
        def __init__(self, rngs):
            self.a, self.b = nnx.Linear(2, 3, rngs=rngs), nnx.Linear(3, 3, rngs=rngs)

        def __call__(self, x, y=None):
            x, y = (x["x"], x["y"]) if isinstance(x, dict) else (x, y)
            return self.a(x) + self.b(y)

    model, x, y = Two(nnx.Rngs(0)), images(8, 2), images(8, 3)
    expected = {"a/kernel": two_pass(x), "b/kernel": two_pass(y)}
    assert_std(fg.nnx.feature_std(model, (x, y)), expected)
    assert_std(fg.nnx.feature_std(model, {"x": x, "y": y}), expected)
    assert_std(fg.nnx.feature_std(model, [(x[:3], y[:3]), (x[3:], y[3:])]), expected)


def test_low_precision_features_are_measured_in_float32():
    x = jnp.asarray(images(500, 4, mean=3), jnp.bfloat16)
    std = fg.nnx.feature_std(nnx.Linear(4, 2, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)), x)["kernel"]
    assert std.dtype == jnp.float32
    np.testing.assert_allclose(std, two_pass(np.asarray(x, np.float32)), rtol=1e-6)


# --- cost and side effects ------------------------------------------------------------------------


def test_batches_of_one_shape_are_compiled_once():
    traces = []

    class Counting(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.Linear(2, 3, rngs=rngs)

        def __call__(self, x):
            traces.append(x.shape)
            return self.layer(x)

    model = Counting(nnx.Rngs(0))
    fg.nnx.feature_std(model, (images(8, 2) for _ in range(4)))
    fg.nnx.feature_std(model, images(8, 2))  # the next epoch
    assert traces == [(8, 2)]
    fg.nnx.feature_std(model, images(9, 2))
    assert traces == [(8, 2), (9, 2)]


def test_nothing_of_an_nnx_model_changes():
    class Noisy(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(3, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.head = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(self.dropout(self.norm(x)))

    def values(model) -> dict[str, bytes]:
        leaves = leaves_of(nnx.state(model))
        keys = {
            path: leaf for path, leaf in leaves.items() if leaf.dtype == jax.random.key(0).dtype
        }
        data = leaves | {path: jax.random.key_data(leaf) for path, leaf in keys.items()}
        return {path: np.asarray(leaf).tobytes() for path, leaf in data.items()}

    model = Noisy(nnx.Rngs(0))  # in training mode: a call moves averages and random numbers
    before = values(model)
    fg.nnx.feature_std(model, images(8, 3))
    fg.nnx.feature_map_sizes(model, images(8, 3))
    assert values(model) == before
    model(images(8, 3))
    assert values(model) != before  # or there was no test


@pytest.mark.slow
def test_the_mode_of_a_linen_model_is_the_callers():
    net, x = LinenNet(), images(4, 9, 9, 2)
    variables = net.init(jax.random.key(0), x)
    evaluated = fg.linen.feature_std(net, variables, x, train=False)
    trained = fg.linen.feature_std(net, variables, x, train=True, mutable=("batch_stats",))
    normalized = np.asarray(trained["grouped/kernel"])
    np.testing.assert_allclose(normalized, 1, rtol=0.1)  # what batch normalization leaves
    assert not np.allclose(evaluated["grouped/kernel"], 1, rtol=0.1)


@pytest.mark.slow
def test_the_program_s_network():
    model = CNN((4, 6), (8, 8, 1), 10, rngs=nnx.Rngs(0))
    spec = fg.collection(nnx.state(model, nnx.Param))
    x = images(5, 8, 8, 1)
    stds = fg.nnx.feature_std(model, x, spec=spec, training=False)
    assert {path: len(std) for path, std in stds.items()} == {"conv1/kernel": 1, "conv2/kernel": 4}
    np.testing.assert_allclose(stds["conv1/kernel"], two_pass(x), rtol=1e-6)
    sizes = fg.nnx.feature_map_sizes(model, x, training=False)
    assert sizes == {"conv1/kernel": 64, "conv2/kernel": 16, "head/kernel": 1}


# --- what cannot be measured ----------------------------------------------------------------------


class Fused(nnx.Module):
    """A kernel that meets features in two halves."""

    def __init__(self, rngs):
        self.fused = nnx.Param(jnp.ones((3, 4)))
        self.head = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, x):
        a, b = jnp.split(self.fused[...], 2, axis=1)
        return self.head((x @ a) * (x @ b))


def test_a_hidden_kernel_is_named_unless_not_asked_for():
    model = Fused(nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"'fused' \(split\)"):
        fg.nnx.feature_std(model, images(4, 3))
    spec = fg.collection(
        nnx.state(model, nnx.Param), ("head/kernel", fg.pom("PO", fg.Sphere())), default=None
    )
    assert set(fg.nnx.feature_std(model, images(4, 3), spec=spec)) == {"head/kernel"}


def test_a_kernel_reshaped_across_its_axes_is_named():
    class Reshaped(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.ones((4, 6)))

        def __call__(self, x):
            return x @ self.w[...].reshape(3, 8)

    with pytest.raises(ValueError, match=r"'w' \(reshape\)"):
        fg.nnx.feature_std(Reshaped(), images(4, 3))


def test_a_kernel_inside_cond_is_named():
    class Branching(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.ones((3, 3)))

        def __call__(self, x):
            return jax.lax.cond(x.sum() > 0, lambda w: x @ w, lambda w: x, self.w[...])

    with pytest.raises(ValueError, match=r"'w' \(cond\)"):
        fg.nnx.feature_std(Branching(), images(4, 3))


def test_one_kernel_along_two_axes_is_named():
    class Tied(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.ones((3, 4)))

        def __call__(self, x):
            return (x @ self.w[...]) @ self.w[...].T

    with pytest.raises(ValueError, match=r"'w' \(uses along different axes\)"):
        fg.nnx.feature_std(Tied(), images(4, 3))


def test_a_kernel_of_the_spec_that_is_not_used_is_named():
    class Idle(nnx.Module):
        def __init__(self, rngs):
            self.used, self.idle = nnx.Linear(3, 3, rngs=rngs), nnx.Linear(3, 3, rngs=rngs)

        def __call__(self, x):
            return self.used(x)

    model = Idle(nnx.Rngs(0))
    assert set(fg.nnx.feature_std(model, images(4, 3))) == {"used/kernel"}
    spec = fg.collection(nnx.state(model, nnx.Param), default=fg.pom("PO", fg.Sphere()))
    with pytest.raises(ValueError, match="idle/kernel"):
        fg.nnx.feature_std(model, images(4, 3), spec=spec)


def test_a_model_that_looks_at_values_is_refused_with_the_way_out():
    class Deciding(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.Linear(3, 3, rngs=rngs)

        def __call__(self, x):
            return self.layer(x) if x.sum() > 0 else x

    with pytest.raises(ValueError, match=r"cannot be traced by JAX.*jax\.lax\.cond"):
        fg.nnx.feature_std(Deciding(nnx.Rngs(0)), images(4, 3))


def test_wrong_arguments_are_named():
    model, x = linear(3), images(4, 3)
    dense = linen.Dense(2)
    variables = dense.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="not of Dense"):
        fg.nnx.feature_std(dense, x)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="not of Linear"):
        fg.linen.feature_std(model, variables, x)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"entry 'params'.*given was \['bias', 'kernel'\]"):
        fg.linen.feature_std(dense, variables["params"], x)
    with pytest.raises(ValueError, match="at least one"):
        fg.nnx.feature_std(model, [])
    with pytest.raises(ValueError, match="A batch is empty: 'kernel'"):
        fg.nnx.feature_std(model, [x, x[:0]])
    with pytest.raises(ValueError, match="not on int"):
        fg.nnx.feature_std(model, 3)
    with pytest.raises(ValueError, match="not list"):
        fg.nnx.feature_std(model, [[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match="hashable"):
        fg.nnx.feature_std(model, x, mask=np.ones(3))
    with pytest.raises(ValueError, match="hashable"):
        fg.linen.feature_std(dense, variables, x, mutable=["batch_stats"])
    with pytest.raises(ValueError, match=r"No kernel was found.*scale"):
        fg.nnx.feature_std(nnx.LayerNorm(3, rngs=nnx.Rngs(0)), x)
    with pytest.raises(ValueError, match="counts examples"):
        fg.nnx.feature_map_sizes(nnx.Linear(1, 1, rngs=nnx.Rngs(0)), np.float32(1))

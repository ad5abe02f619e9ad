"""The shortcuts for Flax models, and folding batch normalization."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from numpy.testing import assert_allclose

import fgsgd_jax as fg
import fgsgd_jax.linen
import fgsgd_jax.nnx


class Net(nnx.Module):
    """Convolutions with a skip and both poolings, with or without batch normalization."""

    def __init__(self, normalized=False, bias=True):
        rngs = nnx.Rngs(0)
        self.conv1 = nnx.Conv(2, 4, (3, 3), strides=2, use_bias=bias, rngs=rngs)
        self.conv2 = nnx.Conv(4, 4, (3, 3), feature_group_count=2, use_bias=bias, rngs=rngs)
        self.norm1 = nnx.BatchNorm(4, rngs=rngs) if normalized else None
        self.norms = nnx.List([nnx.BatchNorm(4, rngs=rngs)] if normalized else [])
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, training=False):
        x = self.conv1(x)
        if self.norm1 is not None:
            x = self.norm1(x, use_running_average=not training)
        x = nnx.relu(x)
        y = self.conv2(x)
        for norm in self.norms:
            y = norm(y, use_running_average=not training)
        x = nnx.leaky_relu(x + y)
        x = nnx.avg_pool(nnx.max_pool(x, (2, 2), (1, 1), "SAME"), (4, 4))
        return self.head(x.reshape(len(x), -1))


SHAPE = (8, 8, 2)


def recipe(model, p):
    """P by the plain recipe: |w|^p for the weights, ones in; pooling written out by hand."""
    conv = jax.lax.conv_general_dilated
    w = {path: jnp.abs(v[...]) ** p for path, v in nnx.to_flat_state(nnx.state(model, nnx.Param))}

    def convolve(x, name, stride, groups):
        numbers = ("NHWC", "HWIO", "NHWC")
        kernel, bias = w[name, "kernel"], w[name, "bias"]
        return conv(x, kernel, (stride,) * 2, "SAME", None, None, numbers, groups) + bias

    x = convolve(jnp.ones((1, *SHAPE)), "conv1", 2, 1)
    x = x + convolve(x, "conv2", 1, 2)
    shifted = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    x = sum(shifted[:, a : a + 4, b : b + 4] for a in (0, 1) for b in (0, 1))
    x = jnp.sum(x, (1, 2)) / 16**p
    return jnp.sum(x @ w["head", "kernel"] + w["head", "bias"])


@pytest.mark.slow
@pytest.mark.parametrize("p", [1, 2, 3])
def test_an_nnx_model_has_the_path_norm_of_the_recipe(p):
    model = Net()
    norm = fg.nnx.path_norm(model, SHAPE, p)
    assert_allclose(norm, recipe(model, p) ** (1 / p), rtol=1e-5)


@pytest.mark.slow
def test_nnx_optimizer_takes_the_step_of_the_functions():
    model = Net()
    params = nnx.state(model, nnx.Param)
    x = jax.random.normal(jax.random.key(0), (5, *SHAPE))
    gradient = nnx.grad(lambda model: jnp.mean(model(x) ** 2))(model)
    scales = fg.nnx.path_scales(model, SHAPE)
    expected = jax.tree.map(lambda w, g, k: w - 0.1 * g / k, params, gradient, scales)
    optimizer = nnx.Optimizer(model, fg.nnx.path_sgd(0.1, model, SHAPE), wrt=nnx.Param)
    nnx.jit(lambda optimizer, model, gradient: optimizer.update(model, gradient))(
        optimizer, model, gradient
    )
    for one, other in zip(
        jax.tree.leaves(nnx.state(model, nnx.Param)), jax.tree.leaves(expected), strict=True
    ):
        assert_allclose(one, other, rtol=1e-4, atol=1e-7)
    link = fg.nnx.scale_by_path(model, SHAPE)
    with pytest.raises(ValueError, match="not those of the model"):
        link.init({"kernel": jnp.ones((3, 3))})


@pytest.mark.slow
def test_a_penalty_on_an_nnx_model_has_a_gradient():
    gradient = nnx.grad(lambda model: fg.nnx.path_norm(model, SHAPE))(Net())
    for layer in ("conv1", "conv2", "head"):
        assert np.all(gradient[layer]["kernel"][...] != 0)


def trained_averages(model):
    """Batch normalizations that are not the identity."""
    for number, (_, module) in enumerate(list(nnx.iter_modules(model))):
        if isinstance(module, nnx.BatchNorm):
            keys = jax.random.split(jax.random.key(number), 4)
            draws = [jax.random.normal(key, (4,)) for key in keys]
            module.mean[...], module.var[...] = draws[0], jnp.exp(draws[1])
            module.scale[...], module.bias[...] = draws[2], draws[3]
    return model


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
def test_folding_batch_normalization_keeps_the_function(bias):
    model = trained_averages(Net(normalized=True, bias=bias))
    with pytest.raises(ValueError, match=r"'norm1' is a BatchNorm.*fold_batch_norm"):
        fg.nnx.path_sgd(0.1, model, SHAPE)
    folded = fg.nnx.fold_batch_norm(model, SHAPE)
    x = jax.random.normal(jax.random.key(9), (3, *SHAPE))
    assert_allclose(folded(x), model(x), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(m, nnx.BatchNorm) for _, m in nnx.iter_modules(folded))
    assert isinstance(model.norm1, nnx.BatchNorm)
    assert (model.conv1.bias is None) == (not bias)
    assert_allclose(fg.nnx.path_norm(folded, SHAPE), recipe(folded, 2) ** 0.5, rtol=1e-5)


class Before(nnx.Module):
    """Pre-activation: a normalization that follows on no layer."""

    def __init__(self):
        self.norm = nnx.BatchNorm(3, use_running_average=True, rngs=nnx.Rngs(0))
        self.layer = nnx.Linear(3, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.layer(nnx.relu(self.norm(x)))


class Twice(Before):
    def __call__(self, x):
        return self.norm(self.layer(nnx.relu(self.layer(x))))


class Aside(Before):
    def __call__(self, x):
        y = self.layer(x)
        return nnx.relu(y) + self.norm(y)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Before, "'norm' does not follow directly"),
        (Twice, "'layer' is called 2 times"),
        (Aside, "computes something else"),
    ],
)
def test_what_cannot_be_folded_is_refused(kind, said):
    model = kind()
    model.norm.bias[...] = jnp.ones(3)
    call = nnx.Linear.__call__
    with pytest.raises(ValueError, match=said):
        fg.nnx.fold_batch_norm(model, (3,))
    assert nnx.Linear.__call__ is call


class Linen(nn.Module):
    normalization: type | None = None

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(5, name="first")(x)
        if self.normalization is nn.BatchNorm:
            x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        elif self.normalization is not None:
            x = self.normalization(name="norm")(x)
        return nn.Dense(2, name="second")(nn.relu(x))


@pytest.mark.slow
def test_a_linen_module_has_the_kappa_of_the_functions():
    module = Linen()
    params = module.init(jax.random.key(0), jnp.ones((1, 3)))["params"]

    def network(params, x):
        x = nn.relu(x @ params["first"]["kernel"] + params["first"]["bias"])
        return x @ params["second"]["kernel"] + params["second"]["bias"]

    assert_allclose(
        fg.linen.path_norm(module, params, (3,), train=False), fg.path_norm(network, params, (3,))
    )
    ours = fg.linen.path_scales(module, params, (3,), 1)
    jax.tree.map(assert_allclose, ours, fg.path_scales(network, params, (3,), 1))
    tx = fg.linen.path_sgd(0.1, module, (3,), arguments={"train": False})
    expected = optax.chain(fg.linen.scale_by_path(module, (3,)), optax.scale(-0.1))
    for each in (tx, expected):
        each.init(params)
    updates = [each.update(params, each.init(params), params)[0] for each in (tx, expected)]
    jax.tree.map(assert_allclose, *updates)


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("kind", [nn.BatchNorm, nn.LayerNorm])
def test_a_linen_normalization_is_refused_by_name(kind):
    module = Linen(kind)
    variables = module.init(jax.random.key(0), jnp.ones((1, 3)))
    rest = {name: value for name, value in variables.items() if name != "params"}
    tx = fg.linen.path_sgd(0.1, module, (3,), variables=rest)
    with pytest.raises(ValueError, match=f"'norm' is a {kind.__name__}"):
        tx.init(variables["params"])


@pytest.mark.parametrize("kind", [nnx.LayerNorm, nnx.RMSNorm])
def test_an_nnx_normalization_is_refused_by_name(kind):
    model = nnx.Sequential(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), kind(4, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=rf"'layers/1' is a {kind.__name__}.*Leave it out"):
        fg.nnx.path_norm(model, (3,))

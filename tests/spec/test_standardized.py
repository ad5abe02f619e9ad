"""Convolutions that standardize their weights: their length does not matter, so it is 1."""

import jax
import jax.numpy as jnp
import pytest

import fgsgd_jax as fg

NAMES = ["WSConv_0", "StdConv", "std_conv2d", "WeightStandardizedConv_1", "ws_conv", "wsconv2_d"]


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def network(name, last="kernel"):
    """A block of three convolutions, of which one is followed by a normalization."""
    params = {f"block/{name}/{last}": leaf(3, 3, 8, 8), "head/kernel": leaf(8, 5)}
    params |= {f"block/Conv_{i}/kernel": leaf(3, 3, 8, 8) for i in range(1, 3)}
    return params | {"block/GroupNorm_0/scale": leaf(8), "block/GroupNorm_0/bias": leaf(8)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("last", ["kernel", "w"])
def test_a_standardized_convolution_has_unit_scale_whatever_follows(name, last):
    params = network(name, last)
    for without in ((), ("block/GroupNorm_0/scale", "block/GroupNorm_0/bias")):
        tree = {path: its for path, its in params.items() if path not in without}
        spec = fg.collection(tree, preset="resnet")
        assert spec[f"block/{name}/{last}"].gamma is None
        assert spec["block/Conv_1/kernel"].gamma == pytest.approx(2**0.5)


def test_the_length_of_a_standardized_convolution_makes_no_features_grow():
    paths = [f"WSConv_{i}/kernel" for i in range(12)]
    params = {path: leaf(3, 3, 8, 8) for path in paths}
    plain = {path.replace("WS", ""): its for path, its in params.items()}
    filters = ("*", fg.pom("PO", fg.Sphere(), component="filter", scale=4.0))
    assert "make features" not in str(fg.collection(params, filters))
    assert "make features" in str(fg.collection(plain, filters))


def test_v_of_weight_normalization_has_unit_scale():
    params = {f"conv{i}/weight_v": leaf(8, 8, 3, 3) for i in range(3)}
    params |= {f"conv{i}/weight_g": leaf(8, 1, 1, 1) for i in range(3)}
    spec = fg.collection(params, preset="resnet", layout="OIHW")
    assert {leaf_spec.gamma for _, leaf_spec in spec.on_manifolds()} == {None}

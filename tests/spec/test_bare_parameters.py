"""Parameters that are called as layers are, and routers beside experts."""

import re

import jax
import jax.numpy as jnp
import pytest

import fgsgd_jax as fg


def tree(**shapes):
    """Flat paths to leaves, with two underscores for each slash."""
    return {
        name.replace("__", "/"): jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in shapes.items()
    }


ATTENTION = tree(a__attn__query__kernel=(64, 64), a__attn__key__kernel=(64, 64))
TORCH = tree(b__mlp__c_fc__weight=(256, 64), b__mlp__c_proj__weight=(64, 256))


@pytest.mark.parametrize("path", ["visual/proj", "proj", "text_projection", "image_proj"])
@pytest.mark.parametrize("layout", ["OIHW", "HWIO", "SOIHW"])
def test_a_projection_without_a_layer_has_the_rules_of_both_readings(path, layout):
    stack = (3,) if layout.startswith("S") else ()
    params = {
        name: jax.ShapeDtypeStruct((*stack, *its.shape), its.dtype) for name, its in TORCH.items()
    }
    params |= tree(**{path.replace("/", "__"): (64, 48)})
    spec = fg.collection(params, preset="transformer", layout=layout)
    assert {path for path, _ in spec.on_manifolds()} == set(TORCH)
    text = str(spec)
    assert re.findall(r"component='([^']*)'", text) == [
        "in:rows out:columns",
        "out:columns in:rows",
    ]
    assert f"('{path}', fg.pom('layer', fg.Oblique()" in text


def test_a_projection_in_a_tree_without_layers_is_a_weight():
    params = tree(mlp__fc=(64, 256), mlp__proj=(256, 64), attn__qkv=(64, 192), attn__proj=(64, 64))
    spec = fg.collection(params, preset="transformer")
    assert {path for path, _ in spec.on_manifolds()} == set(params)


@pytest.mark.parametrize("path", ["query_pos", "decoder/query_pos", "pos", "query", "pool/query"])
@pytest.mark.parametrize("shape", [(100, 64), (8, 64), (64, 64), (1, 8, 64)])
def test_learned_queries_and_positions_are_no_weights_of_attention(path, shape):
    params = ATTENTION | tree(**{path.replace("/", "__"): shape})
    spec = fg.collection(params, preset="transformer")
    assert {path for path, _ in spec.on_manifolds()} == set(ATTENTION)


@pytest.mark.parametrize("shape", [(8, 64), (100, 64)])
def test_keys_with_layers_of_their_own_leave_a_query_learned(shape):
    params = tree(pool__query=shape, pool__key__kernel=(64, 64), pool__value__kernel=(64, 64))
    spec = fg.collection(params, preset="transformer")
    assert spec["pool/query"] is None
    assert "'pool/query' stays Euclidean" in str(spec)


def test_queries_beside_keys_without_layers_are_weights():
    params = tree(attn__query=(64, 64), attn__key=(64, 64), attn__value=(64, 64))
    spec = fg.collection(params, preset="transformer")
    assert {path for path, _ in spec.on_manifolds()} == set(params)


ROUTERS = ["gating_network", "gating", "gate_fn", "assign", "switch"]


@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.parametrize("listed", [False, True])
def test_a_router_is_found_by_its_name_or_by_the_number_of_experts(name, listed):
    experts = {f"m__mlp__experts__{i}__up": (64, 256) for i in range(8)}
    experts = experts if listed else {"m__mlp__experts__w1": (8, 64, 256)}
    params = tree(**{f"m__mlp__{name}__kernel": (64, 8)}, **experts) | ATTENTION
    params |= tree(m__mlp__up__kernel=(64, 256))
    spec = fg.collection(params, preset="transformer")
    assert spec[f"m/mlp/{name}/kernel"] is None
    assert spec["m/mlp/up/kernel"] is not None
    everywhere = fg.collection(params, default=fg.pom("layer", fg.Oblique()))
    assert everywhere[f"m/mlp/{name}/kernel"] is None


@pytest.mark.parametrize("name", ["Lambda_re", "A_log", "theta", "P", "frequencies_of_modes"])
def test_a_matrix_beside_layers_that_no_word_calls_a_weight_stays_euclidean(name):
    layers = tree(up__kernel=(16, 32), down__kernel=(32, 16), head__kernel=(16, 10))
    spec = fg.collection(layers | tree(**{f"ssm__{name}": (32, 8)}), preset="mlp")
    assert {path for path, _ in spec.on_manifolds()} == {"up/kernel", "down/kernel"}
    assert "may give the output" not in str(spec)


@pytest.mark.parametrize("name", ["W1", "w_mix", "weight_hidden", "fc1", "0"])
def test_a_matrix_beside_layers_that_is_called_as_weights_are_is_one(name):
    layers = tree(first__kernel=(16, 32), head__kernel=(32, 10))
    spec = fg.collection(layers | tree(**{f"block__{name}": (32, 32)}), preset="mlp")
    assert spec[f"block/{name}"] is not None


@pytest.mark.parametrize(
    "names",
    [("kernel_mu", "kernel_sigma"), ("mu_w", "sigma_w"), ("weight_mean", "weight_rho"),
     ("kernel_posterior_loc", "kernel_posterior_scale"), ("w_mu", "w_logvar")],
)  # fmt: skip
@pytest.mark.parametrize("preset", ["mlp", "transformer"])
def test_parameters_of_a_distribution_of_weights_have_the_rule_to_copy(names, preset):
    params = tree(dense_0__kernel=(8, 16), dense_1__kernel=(16, 16), head__kernel=(16, 4))
    noisy = tree(**{f"dense_noisy__{name}": (16, 16) for name in names})
    spec = fg.collection(params | noisy, preset=preset)
    assert {path for path, _ in spec.on_manifolds()} == {"dense_0/kernel", "dense_1/kernel"}
    assert f"To place 'dense_noisy/{min(names)}', name its axes in a rule" in str(spec)
    layer_of_a_mean = fg.collection(params | tree(mu__kernel=(16, 4)), preset="mlp")
    assert dict(zip(layer_of_a_mean, layer_of_a_mean.reasons, strict=True))["mu/kernel"] == (
        "an output of the network by its name"
    )


@pytest.mark.parametrize(
    ("name", "shape", "layout"),
    [
        ("const", (1, 4, 4, 16), None),
        ("const", (1, 16, 4, 4), "OIHW"),
        ("prototype_vectors", (20, 16, 1, 1), "OIHW"),
    ],
)
def test_a_parameter_of_four_axes_beside_convolutions_is_none(name, shape, layout):
    sizes = [(3, 3, 16, 16), (3, 3, 16, 5)]
    kernels = [its if layout is None else (its[3], its[2], 3, 3) for its in sizes]
    params = tree(**{f"Conv_{i}__kernel": its for i, its in enumerate(kernels)})
    spec = fg.collection(params | tree(**{name: shape}), preset="resnet", layout=layout)
    assert {path for path, _ in spec.on_manifolds()} == {"Conv_0/kernel"}
    reasons = dict(zip(spec, spec.reasons, strict=True))
    assert reasons[name].startswith("a parameter of its own")

"""Arguments that are not what they should be are answered with what to write."""

import equinox as eqx
import flax
import flax.linen as linen
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import fgsgd_jax as fg

K = jax.random.key(0)
W = {"w": jnp.full((8, 4), 8**-0.5)}
SPEC = fg.collection(W, ("w", fg.pom("PO", fg.Sphere())))


# --- what is no tree of parameters ---------------------------------------------------------------


class WithStatistics(nnx.Module):
    def __init__(self):
        self.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))


NO_PARAMETERS = {
    "spec": (lambda: SPEC, "parameters that this spec was built from"),
    "NNX": (lambda: nnx.Linear(3, 4, rngs=nnx.Rngs(0)), r"nnx.state\(module, nnx.Param\)"),
    "NNX, statistics": (WithStatistics, r"nnx.state\(module, nnx.Param\)"),
    "linen": (lambda: linen.Dense(3), r"module.init\(key, inputs\)\['params'\]"),
    "linen variables": (
        lambda: {"params": W, "batch_stats": {"norm": {"mean": jnp.zeros(4)}}},
        r"variables\['params'\]",
    ),
    "linen variables with a cache": (
        lambda: flax.core.freeze({"params": W, "cache": {"key": jnp.zeros((1, 4))}}),
        r"variables\['params'\]",
    ),
    "NNX state with statistics": (
        lambda: nnx.state(WithStatistics()),
        r"nnx.state\(model, nnx.Param\)",
    ),
    "NNX state with dropout": (
        lambda: nnx.state(nnx.Dropout(0.5, rngs=nnx.Rngs(0))),
        r"nnx.state\(model, nnx.Param\)",
    ),
    "training state": (
        lambda: TrainState.create(apply_fn=len, params=W, tx=optax.sgd(1.0)),
        r"state\.params",
    ),
    "state": (lambda: optax.adam(1.0).init(W), "the state of an optimizer"),
    "empty state": (lambda: optax.sgd(1.0).init(W), "the state of an optimizer"),
    "our state": (lambda: fg.rsgd(0.1, SPEC).init(W), "the state of an opt"),
    "optimizer": (lambda: optax.adam(1.0), "it is an optimizer"),
    "NNX optimizer": (
        lambda: nnx.Optimizer(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), optax.sgd(1.0), wrt=nnx.Param),
        "optimizer",
    ),
}


@pytest.mark.parametrize("name", NO_PARAMETERS)
def test_what_holds_parameters_but_is_not_them_is_answered_with_where_they_are(name):
    build, advice = NO_PARAMETERS[name]
    with pytest.raises(TypeError, match=f"`params` must be the parameters.*{advice}"):
        fg.collection(build())


@pytest.mark.parametrize("name", ["spec", "linen", "training state", "state"])
@pytest.mark.parametrize("call", [fg.project, fg.residual, lambda *args: fg.initialize(K, *args)])
def test_verbs_over_trees_answer_in_the_same_way(name, call):
    build, advice = NO_PARAMETERS[name]
    with pytest.raises(TypeError, match=f"`params` must be the parameters.*{advice}"):
        call(build(), SPEC)


class Convolution(nnx.Module):
    def __init__(self):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))


OPTIMIZERS = {
    "fgsgd": lambda spec: fg.fgsgd(0.1, spec),
    "with a part": lambda spec: fg.fgsgd(0.1, spec, euclidean=optax.adam(1e-3)),
    "with decay": lambda spec: fg.fgsgd(0.1, spec, weight_decay=0.1),
    "riemannian_adam": lambda spec: fg.riemannian_adam(0.1, spec),
    "manifold_muon": lambda spec: fg.manifold_muon(0.1, spec),
    "on_manifold": lambda spec: fg.on_manifold(optax.adam(0.1), spec),
    "keep_on_manifolds": lambda spec: fg.keep_on_manifolds(spec),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_given_a_module_answers_with_its_parameters(name):
    model = Convolution()
    params = nnx.state(model, nnx.Param)
    spec = fg.collection(params, ("conv/kernel", fg.pom("PO", fg.Sphere())), default=None)
    tx = OPTIMIZERS[name](spec)
    with pytest.raises(ValueError, match=r"Give its parameters, params = nnx\.state\(model, nnx"):
        tx.init(model)
    variables = {"params": W, "batch_stats": {"norm": {"mean": jnp.zeros(4)}}}
    if name not in ("with a part", "with decay", "manifold_muon"):  # Optax sees the labels first
        with pytest.raises(TypeError, match=r"its parameters are variables\['params'\]"):
            tx.init(variables)


@pytest.mark.parametrize(
    "name", ["with a part", "riemannian_adam", "manifold_muon", "on_manifold", "momentum"]
)
def test_a_gradient_that_is_missing_is_named(name):
    spec = fg.collection(W | {"bias": jnp.ones(4)}, ("w", fg.pom("PO", fg.Sphere())))
    params = W | {"bias": jnp.ones(4)}
    make = OPTIMIZERS.get(name, lambda spec: fg.fgsgd(0.1, spec, momentum=0.9))
    tx = make(spec)
    state = tx.init(params)
    for path in params:
        others = {other: leaf for other, leaf in params.items() if other != path}
        with pytest.raises(ValueError, match=f"gradients have no leaf '{path}'.*Give zeros"):
            tx.update(others, state, params)
        if name != "on_manifold" or path == "w":
            with pytest.raises(ValueError, match=f"The gradient of '{path}' is None"):
                tx.update(others | {path: None}, state, params)
    with pytest.raises(ValueError, match=r"of 'bias' has shape \(3,\), but"):
        tx.update(params | {"bias": jnp.ones(3)}, state, params)


def test_too_few_components_of_attention_are_answered_with_a_cut_that_it_has():
    params = {"attn/query/kernel": jax.ShapeDtypeStruct((16, 4, 8), jnp.float32)}
    manifolds = (fg.Sphere(), fg.Oblique(), fg.Stiefel())

    def request(cut):
        pom = fg.pom("layer", manifolds, component=cut)
        return fg.collection(params, ("attn/query/kernel", pom))

    cut = "in:rows heads:stack out:columns"
    with pytest.raises(ValueError, match=f"component='{cut}', of which there are 4"):
        request("in:rows heads:columns out:columns")
    assert request(cut)["attn/query/kernel"].counts() == (2, 1, 1)


NOT_FILTERED = {
    "function": lambda: eqx.nn.Sequential([eqx.nn.Lambda(jax.nn.relu)]),
    "own function": lambda: {"w": W["w"], "activation": lambda x: x},
    "text": lambda: {"w": W["w"], "padding": "SAME"},
    "object": lambda: {"w": W["w"], "config": object()},
}


@pytest.mark.parametrize("name", NOT_FILTERED)
def test_leaves_that_are_no_arrays_are_answered_with_the_filter_of_equinox(name):
    with pytest.raises(ValueError, match=r"not an array.*eqx\.filter\(model, eqx\.is_array\)"):
        fg.collection(NOT_FILTERED[name]())


@pytest.mark.parametrize("number", [2.0, 3, True])
def test_numbers_are_answered_with_how_to_make_them_arrays(number):
    with pytest.raises(ValueError, match=rf"jnp\.asarray\({number!r}\)"):
        fg.collection({"w": W["w"], "number": number})


@pytest.mark.parametrize("preset", ["resnet", "mlp", "transformer", "rnn"])
@pytest.mark.parametrize("shape", [(4, 8), (8, 3, 3)])
def test_every_preset_names_the_layout_where_weights_are_called_weight(preset, shape):
    params = {"layers/0/weight": jnp.ones(shape), "layers/1/weight": jnp.ones(shape)}
    with pytest.raises(ValueError, match="layout='OIHW'"):
        fg.collection(params, preset=preset)


# --- values and names ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 1), (1, 8), (1, 1, 8, 1)])
@pytest.mark.parametrize("component", ["matrix", None])
def test_a_vector_is_not_told_to_be_cut_as_the_matrix_that_it_is(shape, component):
    request = fg.pom("layer", fg.Stiefel(), component=component)
    with pytest.raises(ValueError, match=r"ask for Sphere\(\)") as raised:
        fg.collection({"w": jnp.ones(shape)}, ("w", request))
    assert "component='matrix'" not in str(raised.value)


@pytest.mark.parametrize(
    ("shape", "component"), [((8, 4), "filter"), ((3, 3, 2, 4), "filter"), ((5, 2, 4), "slice")]
)
def test_vectors_of_a_matrix_are_answered_with_the_cut_that_fits(shape, component):
    params = {"conv": {"kernel": jnp.ones(shape)}}
    request = fg.pom("layer", fg.Stiefel(), component=component)
    with pytest.raises(ValueError, match="Choose component='matrix'"):
        fg.collection(params, ("conv/kernel", request))
    whole = fg.pom("layer", fg.Stiefel(), component="matrix")
    assert fg.collection(params, ("conv/kernel", whole))["conv/kernel"]


@pytest.mark.parametrize(
    ("component", "size", "said"),
    [
        ("filter", (8, 4), r", or an array of shape \(4,\)"),
        ("filter", (3,), r", or an array of shape \(4,\)"),
        ("matrix", (1,), r"\."),
        ("matrix", (8, 4), r"\."),
        ("inputs:inputs out:rows", (4,), r", or an array of shape \(8,\)"),
    ],
)
def test_a_scale_that_does_not_fit_is_answered_with_the_shapes_that_do(component, size, said):
    request = fg.pom("layer", fg.Oblique(), component=component, scale=jnp.ones(size))
    with pytest.raises(ValueError, match=f"a scale of shape .* does not fit; give a number{said}"):
        fg.collection(W, ("w", request))


MISSPELLED = {
    "scale": (lambda: fg.collection(W, scale="varience"), "'variance'"),
    "scale of a pom": (lambda: fg.pom("PO", fg.Sphere(), scale="geometic"), "'geometric'"),
    "scale and gain": (lambda: fg.collection(W, scale=("variance ", 1.0)), "'variance'"),
    "scale, capitals": (lambda: fg.collection(W, scale="Initial"), "'initial'"),
    "layout": (lambda: fg.collection(W, layout="oihw"), "'OIHW'"),
    "layout of a pom": (lambda: fg.pom("PO", fg.Sphere(), layout="HWI0"), "'HWIO'"),
    "default": (lambda: fg.collection(W, default="byshape"), "'by shape'"),
    "preset as default": (lambda: fg.collection(W, default="resnet"), "preset='resnet'"),
    "preset": (lambda: fg.collection(W, preset="transfomer"), "'transformer'"),
    "component": (lambda: fg.pom("PO", fg.Sphere(), component="fitler"), "'filter'"),
    "scheme": (lambda: fg.pom("kernal", fg.Sphere()), "'kernel'"),
    "manifold": (lambda: fg.pom("PO", "Spere"), r"'Sphere\(\)'"),
    "manifold as a class": (lambda: fg.pom("PO", fg.Oblique), r"'Oblique\(\)'"),
    "one of several": (lambda: fg.pom("PO", (fg.Sphere(), "stiefel")), r"'Stiefel\(\)'"),
    "coordinates": (lambda: fg.rsgd(0.1, SPEC, coordinates="scalled"), "'scaled'"),
}


@pytest.mark.parametrize("name", MISSPELLED)
def test_a_misspelled_name_is_answered_with_the_name_that_is_meant(name):
    call, meant = MISSPELLED[name]
    with pytest.raises(ValueError, match=rf"Did you mean {meant}\?"):
        call()


CELLS = {
    "GRU": lambda: eqx.nn.GRUCell(8, 16, key=jax.random.key(0)),
    "LSTM": lambda: eqx.nn.LSTMCell(8, 16, key=jax.random.key(0)),
    "dense": lambda: eqx.nn.Linear(8, 16, key=jax.random.key(0)),
}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("options", [{"default": fg.pom("PO", fg.Sphere())}, {}])
def test_weights_of_equinox_need_a_layout_whatever_follows_in_their_names(cell, options):
    params = eqx.filter(CELLS[cell](), eqx.is_inexact_array)
    rules = [] if options else [("*", fg.pom("PO", fg.Sphere()))]
    with pytest.raises(ValueError, match=r"is called 'weight.*outputs come first; write layout"):
        fg.collection(params, *rules, **options)
    spec = fg.collection(params, *rules, layout="OIHW", **options)
    for path, leaf_spec in spec.on_manifolds():
        outputs, inputs = leaf_spec.shape
        assert leaf_spec.points_shape == (inputs, 1, outputs), path


@pytest.mark.parametrize("name", ["in_proj_weight", "weight_ih_l0", "weight_hh_l1_reverse"])
def test_weights_of_pytorch_are_called_by_longer_names_as_well(name):
    params = {f"attn/{name}": jnp.ones((24, 8))}
    with pytest.raises(ValueError, match=f"is called '{name}'"):
        fg.collection(params, ("*", fg.pom("PO", fg.Sphere())))


STACKED_VECTORS = {"ls1": (5, 32), "A_log": (5, 16), "alpha": (5, 4), "mixer/gain": (5, 32)}


@pytest.mark.parametrize("name", STACKED_VECTORS)
def test_vectors_beside_stacked_kernels_are_no_matrices_by_default(name):
    kernel = {"layers/Dense/kernel": jnp.ones((5, 32, 32))}
    vector = {f"layers/{name}": jnp.ones(STACKED_VECTORS[name])}
    matrix = {"head_of_its_own/mix": jnp.ones((5, 32))}
    pom = fg.pom("PO", fg.Sphere())
    spec = fg.collection(kernel | vector | matrix, default=pom)
    assert [path for path, _ in spec.on_manifolds()] == ["head_of_its_own/mix"]
    reason = dict(zip(spec, spec.reasons, strict=True))[f"layers/{name}"]
    assert reason.startswith("2 axes, of which the first may stack layers")
    with_layout = fg.collection(kernel | vector, default=pom, layout="SIO")
    assert [path for path, _ in with_layout.on_manifolds()] == ["layers/Dense/kernel"]


def test_a_cut_whose_axes_are_named_is_not_answered_with_one_of_heads():
    manifolds = (fg.Sphere(), fg.Oblique(), fg.Stiefel())
    pom = fg.pom("layer", manifolds, component="experts in:rows out:columns")
    with pytest.raises(ValueError, match="into 2 components, too few") as error:
        fg.collection({"w": jnp.ones((2, 8, 16))}, ("w", pom))
    assert "heads" not in str(error.value)


def test_a_layer_with_more_axes_than_its_layout_without_s_is_told_so():
    params = {"stem/conv/kernel": jnp.ones((5, 8, 16)), "layers/w": jnp.ones((3, 8, 8))}
    with pytest.raises(ValueError, match="'SIO' means 'IO': write its own layout in the pom"):
        fg.collection(params, ("*", fg.pom("PO", fg.Sphere())), layout="SIO")
    own = fg.pom("PO", fg.Sphere(), component="filter", layout="WIO")
    rules = [("stem/*", own), ("*", fg.pom("PO", fg.Sphere()))]
    spec = fg.collection(params, *rules, layout="SIO")
    assert spec["stem/conv/kernel"].points_shape == (40, 1, 16)


WRONG_KINDS = {
    "map sizes": (
        lambda: fg.collection({"w": jnp.ones((3, 3, 4, 4))}, feature_map_sizes=64),
        ValueError,
        "maps paths of leaves to sizes.*got 64",
    ),
    "split": (
        lambda: fg.Component(rows=0, columns=1, split="text"),
        ValueError,
        "takes pairs .axis, sizes.",
    ),
    "commas": (
        lambda: fg.pom("layer", fg.Stiefel(), component="in:rows, heads, out:columns"),
        ValueError,
        "Separate words by spaces",
    ),
    "complex": (
        lambda: fg.collection({"w": jnp.ones((4, 4), complex)}, ("w", fg.pom("PO", fg.Sphere()))),
        ValueError,
        "complex64, for which there are no manifolds here",
    ),
    "labels of text": (
        lambda: fg.collection(W, default=None).labels(dict.fromkeys(W, "text")),
        TypeError,
        "'w' is 'text', but the spec was built for arrays",
    ),
}


@pytest.mark.parametrize("name", WRONG_KINDS)
def test_arguments_of_a_wrong_kind_are_named(name):
    call, error, message = WRONG_KINDS[name]
    with pytest.raises(error, match=message):
        call()

"""Arguments of a wrong kind are named in one sentence, by every function of the library."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg
from fgsgd_jax import checks, diagnostics, norms

RAW = {"w": jax.random.normal(jax.random.key(0), (4, 2)), "b": jnp.ones(2)}
STIEFEL = fg.pom("layer", fg.Stiefel())
SPEC = fg.collection(RAW, ("w", STIEFEL), default=None)
PARAMS = fg.project(RAW, SPEC)
KEY = jax.random.key(0)
SGD = optax.sgd(0.1)
CHAIN = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}


def network(params, x):
    return jax.nn.relu(x @ params["in"]) @ params["out"]


def cast(dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)


SHAPES = jax.eval_shape(lambda: PARAMS)
LISTS = {"w": [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]], "b": jnp.ones(2)}

# --- what takes the parameters of a spec ---------------------------------------------------------

TAKE_PARAMS = {
    "project": lambda params: fg.project(params, SPEC),
    "initialize": lambda params: fg.initialize(KEY, params, SPEC),
    "residual": lambda params: fg.residual(params, SPEC),
    "report": lambda params: fg.report(params, SPEC),
    "network_norms": lambda params: norms.network_norms(params, SPEC),
    "check_optimizer": lambda params: checks.check_optimizer(SGD, params, SPEC, steps=1),
}
INITS = {
    "fgsgd": fg.fgsgd(0.1, SPEC).init,
    "riemannian_adam": fg.riemannian_adam(0.1, SPEC).init,
    "on_manifold": fg.on_manifold(SGD, SPEC).init,
    "master weights": fg.with_master_weights(SGD, SPEC).init,
    "average_on_manifolds": fg.average_on_manifolds(SPEC).init,
    "keep_on_manifolds": fg.keep_on_manifolds(SPEC).init,
    "project_to_tangent": fg.project_to_tangent(SPEC).init,
    "trace_on_manifold": fg.trace_on_manifold(SPEC, 0.9).init,
    "scale_by_fgsgd": fg.scale_by_fgsgd(SPEC).init,
    "scale_by_riemannian_adam": fg.scale_by_riemannian_adam(SPEC).init,
    "scale_by_manifold_muon": fg.scale_by_manifold_muon(SPEC).init,
    "scale_by_rdog": fg.scale_by_rdog(SPEC).init,
    "retract_updates": fg.retract_updates(SPEC).init,
}
NO_PARAMS = {
    "text": ("text", TypeError, "must be the parameters, a tree of arrays, but str was given"),
    "a number": (2.5, TypeError, "must be the parameters, a tree of arrays, but float was given"),
    "the spec": (SPEC, TypeError, "but Collection was given: give the parameters that this spec"),
    "a manifold": (fg.Sphere(), TypeError, "but Sphere was given: give the parameters that are"),
    "an optimizer": (SGD, TypeError, "it is an optimizer"),
    "an array": (jnp.ones((4, 2)), ValueError, "single array was given in place of the tree"),
    "a list": (list(PARAMS.values()), ValueError, r"no leaves '0', '1'.* leaves 'b', 'w'"),
    "lists": (LISTS, ValueError, r"'w' is no array; convert it with jnp\.asarray"),
    "whole numbers": (cast("int32"), ValueError, "'w' has dtype int32.* Cast the leaf"),
    "complex": (cast("complex64"), ValueError, "'w' has dtype complex64.* Cast the leaf"),
    "a number in it": ({"b": 1.0}, TypeError, r"'b' is 1\.0, which is no array"),
}


@pytest.mark.parametrize("kind", NO_PARAMS)
@pytest.mark.parametrize("use", [*TAKE_PARAMS, *INITS])
def test_something_else_in_the_place_of_parameters_is_told(use, kind):
    wrong, error, said = NO_PARAMS[kind]
    with pytest.raises(error, match=said):
        (TAKE_PARAMS | INITS)[use](wrong)


@pytest.mark.parametrize("use", TAKE_PARAMS)
@pytest.mark.parametrize("empty", [None, {}, []], ids=repr)
def test_nothing_in_the_place_of_parameters_is_told(use, empty):
    with pytest.raises(ValueError, match="have no leaves, but the spec was built from 'b', 'w'"):
        TAKE_PARAMS[use](empty)


@pytest.mark.parametrize("use", [name for name in TAKE_PARAMS if name != "initialize"])
def test_shapes_in_the_place_of_parameters_are_told(use):
    with pytest.raises(TypeError, match=r"is a shape without values\. Give the parameters"):
        TAKE_PARAMS[use](SHAPES)


@pytest.mark.parametrize("use", INITS)
def test_init_takes_numpy_arrays_shapes_and_trees_without_leaves(use):
    for params in (jax.tree.map(np.asarray, PARAMS), SHAPES, {}, None):
        INITS[use](params)


@pytest.mark.parametrize("make", [fg.fgsgd, fg.rsgd, fg.riemannian_adam])
def test_updates_without_gradients_or_with_shapes_are_told(make):
    tx = make(0.1, SPEC)
    state = tx.init(PARAMS)
    for nothing in (None, {}, SPEC):
        with pytest.raises(ValueError, match=r"gradients.* (are|leaf).*order is update\(gradients"):
            tx.update(nothing, state, PARAMS)
    with pytest.raises(TypeError, match="parameters of an update are shapes without values"):
        tx.update(PARAMS, state, SHAPES)


def test_gradients_of_other_leaves_than_the_parameters_are_told():
    tx = fg.riemannian_adam(0.1, SPEC)
    with pytest.raises(ValueError, match=r"leaf 'w', which the parameters do not have; the order"):
        tx.update(PARAMS, tx.init(PARAMS), {"b": PARAMS["b"]})


# --- transformations -----------------------------------------------------------------------------

TAKE_A_TRANSFORMATION = {
    "checked": lambda tx: fg.checked(tx, SPEC),
    "with_master_weights": lambda tx: fg.with_master_weights(tx, SPEC),
    "on_manifold": lambda tx: fg.on_manifold(tx, SPEC),
    "apply_gradients": lambda tx: fg.apply_gradients(tx, PARAMS, (), PARAMS),
    "euclidean": lambda tx: fg.fgsgd(0.1, SPEC, euclidean=tx),
    "check_optimizer": lambda tx: checks.check_optimizer(tx, PARAMS, SPEC),
}


@pytest.mark.parametrize("use", TAKE_A_TRANSFORMATION)
@pytest.mark.parametrize("wrong", [optax.adam, 0.1, PARAMS, SPEC], ids=lambda wrong: str(wrong)[:9])
def test_something_else_in_the_place_of_a_transformation_is_told(use, wrong):
    message = r"must be an Optax transformation, such as optax\.adam\(1e-3\), got "
    with pytest.raises(TypeError, match=message):
        TAKE_A_TRANSFORMATION[use](wrong)


@pytest.mark.parametrize("use", ["with_master_weights", "on_manifold", "checked", "euclidean"])
def test_a_lookahead_inside_is_told_to_go_around(use):
    tx = TAKE_A_TRANSFORMATION[use](optax.lookahead(SGD, 5, 0.5))
    with pytest.raises(ValueError, match=r"around the optimizer .*chain\(optax\.lookahead\(tx"):
        tx.init(PARAMS)


def test_a_lookahead_that_is_checked_without_pairs_of_weights_is_told():
    with pytest.raises(ValueError, match=r"LookaheadParams\.init_synced\(params\)"):
        checks.check_optimizer(optax.lookahead(SGD, 5, 0.5), PARAMS)


# --- numbers, truth values and others ------------------------------------------------------------

AVERAGE = optax.chain(fg.rsgd(0.1, SPEC), fg.average_on_manifolds(SPEC))
WRONG = {
    "average, decay": (lambda: fg.average_on_manifolds(SPEC, decay=True), "decay must be a number"),
    "average, start": (lambda: fg.average_on_manifolds(SPEC, start="2"), "start must be a number"),
    "average, align": (lambda: fg.average_on_manifolds(SPEC, align="no"), "align must be True or"),
    "get_average": (lambda: fg.get_average(AVERAGE.init(PARAMS), "text"), "another structure"),
    "land, number": (lambda: fg.land_updates(SPEC, attraction="a"), "attraction must be a number"),
    "land, truth": (lambda: fg.land_updates(SPEC, after_step=None), "after_step must be True or"),
    "nesterov": (lambda: fg.fgsgd(0.1, SPEC, momentum=0.9, nesterov="no"), "nesterov must be True"),
    "trace": (lambda: fg.trace_on_manifold(SPEC, 0.9, nesterov=1), "nesterov must be True"),
    "amsgrad": (lambda: fg.riemannian_adam(0.1, SPEC, amsgrad="no"), "amsgrad must be True"),
    "rescale": (lambda: fg.manifold_muon(0.1, SPEC, rescale=2.0), "rescale must be True or False"),
    "rdog, curvature": (lambda: fg.rdog(SPEC, curvature=None), "curvature must be a number"),
    "rdog, infinite": (lambda: fg.rdog(SPEC, curvature=np.inf), "curvature must be a finite"),
    "rdog, eps": (lambda: fg.scale_by_rdog(SPEC, eps=-1.0), "eps must be .* at least 0"),
    "rate": (lambda: fg.robbins_monro("0.1", 10), "init_value must be a number"),
    "negative rate": (lambda: fg.robbins_monro(-0.1, 10), "init_value must be .* at least 0"),
    "steps": (lambda: fg.robbins_monro(0.1, True), "transition_steps must be a number"),
    "power": (lambda: fg.robbins_monro(0.1, 10, jnp.ones(2)), "power must be .* array of shape"),
    "transport": (lambda: fg.on_manifold(SGD, SPEC, transport=3), r"`transport` has .* got 3\."),
    "draws": (lambda: fg.unbalance(KEY, CHAIN, draws=2.5), "draws must be a whole number, got 2.5"),
    "factor": (lambda: fg.unbalance(KEY, CHAIN, factor=-1.0), "factor must be .* above 0"),
    "no factor": (lambda: fg.unbalance(KEY, CHAIN, factor=None), "factor must be a number"),
    "layers": (lambda: fg.balance(CHAIN, layers=3), "`layers` are the paths of the kernels"),
    "whole numbers": (lambda: fg.balance({"w": jnp.ones((2, 2), int)}), "'w' is of dtype int"),
    "shapes": (lambda: fg.balance(jax.eval_shape(lambda: CHAIN)), "'in' is"),
    "text": (lambda: fg.path_norm(network, "text", (3,)), "a tree of arrays, got 'text'"),
    "a function": (lambda: fg.path_norm(network, {"w": len}, (3,)), "arrays, but 'w' is <built-in"),
    "p": (lambda: fg.path_norm(network, CHAIN, (3,), p="2"), "p must be a number, got '2'"),
    "norms, weight": (lambda: norms.layer_norms("text"), "weight must be an array of real"),
    "norms, complex": (lambda: norms.group_norms(RAW["w"] * 1j, SPEC["w"]), "got dtype complex64"),
    "norms, entry": (lambda: norms.component_norms(RAW["w"], SPEC), r"such as spec\['conv/kernel'"),
    "steps of a check": (
        lambda: checks.check_optimizer(SGD, PARAMS, steps=0),
        "steps must be at least 1, got 0",
    ),
    "extra_args": (
        lambda: checks.check_optimizer(SGD, PARAMS, extra_args=(1,)),
        r"`extra_args` are .* got \(1,\)",
    ),
    "draws of a check": (
        lambda: checks.check_random(fg.Sphere(), KEY, draws="9"),
        "draws must be a whole number",
    ),
    "shape": (
        lambda: checks.check_random(fg.Sphere(), KEY, shape="43"),
        "`shape` must be the shape",
    ),
    "no shape": (lambda: checks.check_manifold(fg.Sphere(), KEY, shape=()), "`shape` must be the"),
    "dtype": (
        lambda: checks.check_manifold(fg.Sphere(), KEY, dtype="text"),
        "dtype must be a float",
    ),
    "order": (
        lambda: checks.check_retraction(fg.Sphere(), KEY, order=1.5),
        "order must be a whole",
    ),
    "tolerance": (
        lambda: checks.check_retraction(fg.Sphere(), KEY, tolerance="a"),
        "tolerance must be a number",
    ),
    "function": (
        lambda: checks.check_gradient(fg.Sphere(), 3, jnp.eye(3, 1), KEY),
        "`function` must be a function of a point, got 3",
    ),
    "point": (
        lambda: checks.check_gradient(fg.Sphere(), jnp.sum, jnp.ones((3, 1), int), KEY),
        "`x` must be a point, .* real floating-point numbers",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_argument_of_another_kind_is_named(name):
    call, said = WRONG[name]
    with pytest.raises((TypeError, ValueError), match=said) as raised:
        call()
    # One or two sentences: nothing of JAX, which explains at length.
    assert len(re.findall(r"[.?!](?:\s|$)", str(raised.value))) <= 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fg.balance(CHAIN, p="2"), "p must be a number, got '2'"),
        (lambda: diagnostics.summary(PARAMS), r"takes what diagnose\(params, spec, …\) returns"),
        (lambda: fg.report(PARAMS, SPEC, grads=PARAMS), "Did you mean 'gradients'?"),
    ],
)
def test_wrong_arguments_are_named_where_they_are_given(call, message):
    with pytest.raises(TypeError, match=message):
        call()

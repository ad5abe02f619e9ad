"""Arguments of a wrong kind that once reached JAX, NumPy or Python, or did nothing, are named."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg
from fgsgd_jax import checks, diagnostics

RAW = {"w": jax.random.normal(jax.random.key(0), (4, 2)), "b": jnp.ones(2)}
SPEC = fg.collection(RAW, ("w", fg.pom("layer", fg.Stiefel())), default=None)
PARAMS = fg.project(RAW, SPEC)
STATE = optax.chain(fg.rsgd(0.1, SPEC), fg.average_on_manifolds(SPEC)).init(PARAMS)
SCALED = fg.collection(RAW, ("w", fg.pom("layer", fg.Stiefel())), default=None, scale=1.0)
SCALED_STATE = fg.fgsgd(0.1, SCALED).init(PARAMS)
KEY = jax.random.key(0)
CHAIN = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
FLOAT8 = jax.tree.map(lambda leaf: leaf.astype(jnp.float8_e4m3fn), CHAIN)
TEXTS = {"w": "a", "b": "b"}
SHAPES = jax.eval_shape(lambda: PARAMS)


def network(params, x):
    return jax.nn.relu(x @ params["in"]) @ params["out"]


def schedule(step, more):
    return 0.1


def scaled(**wrong):
    return fg.scale_by_path(network, (3,), **wrong)


def law(**wrong):
    return checks.check_random(fg.Sphere(), KEY, **wrong)


def in_place_of_gradients(tx):
    return lambda: tx.update(SHAPES, tx.init(PARAMS), PARAMS)


WRONG = {
    # shapes in the place of gradients
    "gradients of fgsgd": (in_place_of_gradients(fg.fgsgd(0.1, SPEC)), "gradient of 'b' is a sh"),
    "gradients of on_manifold": (
        in_place_of_gradients(fg.on_manifold(optax.adam(0.1), SPEC)),
        "gradient of 'b' is a shape without values",
    ),
    "gradients of keep_on_manifolds": (
        in_place_of_gradients(fg.keep_on_manifolds(SPEC)),
        "gradient of 'b' is a shape without values",
    ),
    "gradients of average_on_manifolds": (
        in_place_of_gradients(fg.average_on_manifolds(SPEC)),
        "gradient of 'b' is a shape without values",
    ),
    "gradients of path_sgd": (
        lambda: scaled().update(jax.eval_shape(lambda: CHAIN), scaled().init(CHAIN), CHAIN),
        "gradient of 'in' is a shape without values",
    ),
    # something else in the place of standard deviations
    "feature_std of project": (
        lambda: fg.project(RAW, SCALED, feature_std=SCALED),
        "numbers by path, such as .*, but .* was given",
    ),
    "feature_std of residual": (
        lambda: fg.residual(PARAMS, SPEC, feature_std=fg.Sphere()),
        r"numbers by path, such as .*, but Sphere\(\) was given",
    ),
    # schedules and truth values
    "maker of schedules": (
        lambda: fg.fgsgd(optax.linear_schedule, SPEC),
        "steps alone, got <funct",
    ),
    "schedule of two": (
        lambda: fg.rdog(SPEC, learning_rate=schedule),
        "number of steps alone, got",
    ),
    "rho of two": (lambda: fg.fgsgd(0.1, SPEC, rho=schedule), "rho must be .*steps alone, got"),
    "per_group": (lambda: fg.per_group(schedule), "per_group takes a function of a Group, got"),
    "normalize": (lambda: fg.rsgd(0.1, SPEC, normalize="no"), "normalize must be True or False"),
    "per_component": (lambda: fg.scale_by_fgsgd(SPEC, per_component=1), "per_component must be T"),
    "second_term": (lambda: scaled(second_term="no"), "second_term must be True or False"),
    "second_term of scales": (
        lambda: fg.path_scales(network, CHAIN, (3,), second_term=0),
        "second_term must be True or False",
    ),
    "extended_range": (lambda: scaled(extended_range="no"), "extended_range must be True or Fal"),
    "scales": (lambda: scaled(scales=2.0), "scales must be a function of the parameters, got 2"),
    "dtype": (
        lambda: fg.rsgd(0.1, SPEC, momentum=0.9, accumulator_dtype=np.float64(0.9)),
        "accumulator_dtype must be a floating-point dtype",
    ),
    "pooled": (lambda: fg.set_feature_std(SCALED_STATE, {"w": 1.0}, pooled="no"), "pooled must be"),
    # paths
    "apply_fn": (
        lambda: fg.path_norm(lambda params: params, CHAIN, (3,)),
        r"apply_fn\(params, x\), but <function .* takes other arguments",
    ),
    "float8 paths": (lambda: fg.path_norm(network, FLOAT8, (3,)), "'in' is of dtype float8"),
    "no layers": (lambda: fg.balance(CHAIN, layers=[]), "`layers` is empty"),
    "empty layer": (lambda: fg.balance({"w": jnp.ones((0, 3))}), r"'w' has no entries \(shape"),
    # averages and diagnostics
    "average": (lambda: fg.get_average(STATE, TEXTS), "a tree of arrays, but 'b' is 'b'"),
    "std of text": (
        lambda: fg.set_feature_std(STATE, {"w": "a"}),
        "standard deviation of 'w' must be an array of real numbers, got 'a'",
    ),
    "rho": (lambda: fg.report(PARAMS, SPEC, gradients=PARAMS, rho=-1.0), "rho must be .*least 0"),
    "rho of text": (lambda: fg.report(PARAMS, SPEC, rho="1"), "rho must be a number, a schedule"),
    "travelled": (
        lambda: diagnostics.diagnose(PARAMS, SPEC, rho="travelled"),
        "rho='travelled' is known to the optimizer alone",
    ),
    "curvature": (
        lambda: diagnostics.of_gradients(SPEC, curvature=np.nan),
        "curvature must be a finite number",
    ),
    "spec of updates": (lambda: diagnostics.of_updates(PARAMS), "`spec` must be a Collection"),
    "shapes of gradients": (
        lambda: fg.report(PARAMS, SPEC, gradients=SHAPES),
        "leaf 'w' of the gradients must be an array of real numbers, got the shape",
    ),
    "updates": (
        lambda: fg.report(PARAMS, SPEC, updates=TEXTS),
        "leaf 'w' of the updates must be an array of real numbers, got 'a'",
    ),
    "report": (lambda: diagnostics.Report(PARAMS), "Report takes what diagnose"),
    "nothing": (lambda: diagnostics.summary({}), "No weight is on a manifold, so there is nothin"),
    "relative step": (
        lambda: diagnostics.relative_step(TEXTS, PARAMS),
        "The update of 'b' must be an array of real numbers, got 'b'",
    ),
    # checks
    "laws": (lambda: law(laws=3), "`laws` are the names of the laws to measure.* got 3"),
    "laws in an array": (lambda: law(laws=jnp.ones(3)), "`laws` are the names .* shape"),
    "tolerances": (
        lambda: law(tolerances=0.1),
        r"`tolerances` are numbers by .* got 0\.1",
    ),
    "tolerance": (
        lambda: law(tolerances={"uniform": "a"}),
        "tolerance of 'uniform' must be a number, got 'a'",
    ),
    "radius": (
        lambda: checks.check_manifold(fg.Sphere(), KEY, injectivity_radius="3"),
        "injectivity_radius must be a number, got '3'",
    ),
    "negative radius": (
        lambda: checks.check_manifold(fg.Sphere(), KEY, injectivity_radius=-1.0),
        r"injectivity_radius must be above 0, got -1\.0",
    ),
    "function of two": (
        lambda: checks.check_gradient(fg.Sphere(), schedule, jnp.eye(3, 1), KEY),
        "`function` must be a function of a point, got",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_argument_of_a_wrong_kind_is_named(name):
    call, said = WRONG[name]
    with pytest.raises((TypeError, ValueError), match=said) as raised:
        call()
    assert len(re.findall(r"[.?!](?:\s|$)", str(raised.value))) <= 3


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ("text", "weight_decay_mask must be True or False, got 'text'"),
        ({"w": False, "b": 3}, "weight_decay_mask of 'b' must be True or False, got 3"),
        ({"b": True}, r"mask has values for 'b', but the leaves are 'b', 'w'\. Give True or False"),
        (lambda tree: None, "mask has values for no leaves, but the leaves are 'b', 'w'"),
        (
            lambda tree: jnp.ones(3),
            "weight_decay_mask must be True or False, got an array of shape",
        ),
    ],
    ids=["text", "a number", "a part", "nothing", "an array"],
)
def test_a_wrong_mask_of_weight_decay_is_told(mask, said):
    tx = fg.fgsgd(0.1, SPEC, weight_decay=0.1, weight_decay_mask=mask)
    with pytest.raises((TypeError, ValueError), match=said):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)


# --- features ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [None, "text", {}, [], PARAMS, SCALED, optax.sgd(0.1).init(PARAMS)],
    ids=lambda wrong: str(wrong)[:9],
)
def test_something_else_than_the_state_of_an_optimizer_on_manifolds_is_told(wrong):
    said = "must be the state of an optimizer on manifolds, as .* given, in which no link"
    with pytest.raises(TypeError, match=said):
        fg.get_feature_std(wrong)
    with pytest.raises(TypeError, match=said):
        fg.set_feature_std(wrong, {"w": 1.0})


@pytest.mark.parametrize("wrong", [None, [], fg.Sphere(), {"w": None}], ids=str)
def test_nothing_in_the_place_of_standard_deviations_is_told(wrong):
    with pytest.raises(TypeError, match=r"standard deviations by path, .* got .*Leave out"):
        fg.set_feature_std(SCALED_STATE, wrong)


# --- Flax ----------------------------------------------------------------------------------------


def test_wrong_arguments_of_the_functions_for_flax_nnx_are_named():
    from flax import linen, nnx

    import fgsgd_jax.nnx as functions

    model, batch = nnx.Linear(3, 2, rngs=nnx.Rngs(0)), jnp.ones((1, 3))
    other = linen.Dense(2)
    for call, said in {
        lambda: functions.path_norm(other, (3,)): "must be a Flax NNX module, got Dense.*linen",
        lambda: functions.path_scales(None, (3,)): "must be a Flax NNX module, got None",
        lambda: functions.path_sgd(0.1, "text", (3,)): "must be a Flax NNX module, got 'text'",
        lambda: functions.path_norm(model, (3,), call=3): r"call must be a function of \(model, x",
        lambda: functions.fold_batch_norm(network, (3,)): "must be a Flax NNX module, got <func",
        lambda: functions.fold_batch_norm(model, 3): "shape of one example without the batch",
        lambda: functions.feature_std(model, batch, spec=CHAIN): "`spec` must be a Collection",
        lambda: functions.feature_map_sizes(model, batch, spec="a"): "`spec` must be a Collection",
    }.items():
        with pytest.raises((TypeError, ValueError), match=said):
            call()


def test_wrong_arguments_of_the_functions_for_flax_linen_are_named():
    from flax import linen, nnx

    import fgsgd_jax.linen as functions

    model, batch = linen.Dense(2), jnp.ones((1, 3))
    variables = model.init(KEY, batch)
    params = variables["params"]
    other = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    for call, said in {
        lambda: functions.path_norm(other, params, (3,)): "must be a Flax Linen module, got Linear",
        lambda: functions.path_scales(params, model, (3,)): "must be a Flax Linen module, got {",
        lambda: functions.path_sgd(0.1, None, (3,)): "must be a Flax Linen module, got None",
        lambda: functions.path_sgd(0.1, model, (3,), variables="a"): "`variables` must be a dict",
        lambda: functions.path_sgd(0.1, model, (3,), arguments=3): "`arguments` must be a dicti",
        lambda: functions.feature_std(model, variables, batch, spec=params): "`spec` must be a Co",
    }.items():
        with pytest.raises((TypeError, ValueError), match=said):
            call()

"""What is wrong is said at once: what was given, what is needed, where (the path), what to do."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg
from fgsgd_jax import Component, Euclidean, Oblique, Sphere, Stiefel

MANIFOLDS = (Sphere(), Oblique(), Stiefel(), Euclidean())


def leaf(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


NETWORK = {"conv": {"kernel": leaf(3, 3, 2, 4), "bias": leaf(4)}, "head": {"kernel": leaf(8, 4)}}


def says(*parts):
    """A pattern for a message that holds these parts, as they are and in this order."""
    return "(?s)" + ".*".join(map(re.escape, parts))


# --- a pom ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["pi", "PIOs", "channel", None])
def test_a_misspelt_scheme_is_named_beside_the_ones_there_are(scheme):
    with pytest.raises(ValueError, match=says("PI, PO, PIO, layer, kernel", repr(scheme))):
        fg.pom(scheme, Sphere())


@pytest.mark.parametrize("manifolds", ["Sphere", Sphere, (), None])
def test_something_else_than_manifolds_is_refused(manifolds):
    with pytest.raises(
        ValueError, match=says("manifold", "(Sphere(), Stiefel())", repr(manifolds))
    ):
        fg.pom("PI", manifolds)


@pytest.mark.parametrize("wrong", ["Spere", Sphere])
def test_one_wrong_manifold_among_right_ones_is_named(wrong):
    with pytest.raises(ValueError, match=says(repr(wrong), "not a manifold", "Sphere()")):
        fg.pom("PI", (Oblique(), wrong))


def test_a_product_is_not_the_manifold_of_one_component():
    # A component is one matrix, a point of a Product a tuple of them.
    with pytest.raises(ValueError, match="Product"):
        fg.collection(NETWORK, ("conv/kernel", fg.pom("PI", fg.Product(Sphere(), Sphere()))))


@pytest.mark.parametrize("component", ["kernel", ["slice"], 2])
def test_a_misspelt_component_is_named_beside_the_ones_there_are(component):
    expected = says("'slice', 'filter', 'matrix'", "Component(rows=", repr(component))
    with pytest.raises(ValueError, match=expected):
        fg.pom("PI", Sphere(), component=component)


@pytest.mark.parametrize("scheme", ["PI", "PO", "layer", "kernel"])
def test_only_pio_takes_a_number_of_groups(scheme):
    with pytest.raises(ValueError, match=says("Only PIO", scheme, "leave out groups=4")):
        fg.pom(scheme, Sphere(), groups=4)


@pytest.mark.parametrize("groups", [0, -3, 2.5, "4"])
def test_pio_needs_a_positive_number_of_groups(groups):
    with pytest.raises(ValueError, match=says("PIO", "at least 1", f"not {groups!r}")):
        fg.pom("PIO", Sphere(), groups=groups)


def test_pio_takes_a_number_of_groups_computed_with_numpy():
    spec = fg.collection(NETWORK, ("conv/kernel", fg.pom("PIO", Sphere(), groups=np.int64(4))))
    assert spec["conv/kernel"].groups == 4


def test_pio_cannot_have_more_groups_than_components():
    with pytest.raises(ValueError, match=says("'conv/kernel'", "8 components", "9 groups", "8")):
        fg.collection(NETWORK, ("conv/kernel", fg.pom("PIO", Sphere(), groups=9)))


# --- a component ---------------------------------------------------------------------------------


def test_a_component_needs_rows():
    with pytest.raises(ValueError, match="at least one axis for its rows"):
        Component(rows=(), columns=(0,))


@pytest.mark.parametrize(
    ("axes", "named"),
    [
        ({"rows": (0,), "columns": (0,)}, "[0, 0]"),
        ({"rows": (0,), "columns": (2,)}, "[0, 2]"),
        ({"rows": (-1,)}, "[-1]"),
        ({"rows": (1,), "stack": (2,)}, "[1, 2]"),
    ],
)
def test_a_component_names_every_axis_once(axes, named):
    with pytest.raises(ValueError, match=says("every axis", "once", "from 0", named)):
        Component(**axes)


@pytest.mark.parametrize("rows", [True, 0.0, [0], (0.0,), ("height",)])
def test_a_component_takes_tuples_of_axis_numbers(rows):
    with pytest.raises(TypeError, match=says("rows", "tuple of axis numbers", "(0,)", repr(rows))):
        Component(rows=rows)


def test_a_component_must_fit_the_weight():
    three = Component(rows=(0,), columns=(2,), stack=(1,))
    expected = says("'head/kernel'", "2 axes", "rows=(0,), columns=(2,), stack=(1,)", "3")
    with pytest.raises(ValueError, match=expected):
        fg.collection(NETWORK, ("head/kernel", fg.pom("PI", Sphere(), component=three)))


@pytest.mark.parametrize("component", [None, "filter", "matrix", "slice"])
@pytest.mark.parametrize("shape", [(8, 2, 4), (2, 3, 3, 2, 4)], ids=["3-D", "5-D"])
def test_a_kernel_whose_axes_could_be_anything_is_not_guessed(shape, component):
    request = fg.pom("PI", Sphere(), component=component)
    expected = says("'attention/query'", f"{len(shape)} axes", "Name them", "Component(rows=")
    with pytest.raises(ValueError, match=expected):
        fg.collection({"attention": {"query": leaf(*shape)}}, ("*", request))


def test_a_dense_kernel_has_no_slices():
    with pytest.raises(ValueError, match=says("'head/kernel'", "2 axes", "'slice'")):
        fg.collection(NETWORK, ("head/kernel", fg.pom("PI", Sphere(), component="slice")))


# --- rules ---------------------------------------------------------------------------------------


def test_a_rule_that_matches_nothing_is_named_beside_the_paths():
    paths = ["'conv/bias'", "'conv/kernel'", "'head/kernel'"]
    with pytest.raises(ValueError, match=says("'kernel'", "matches no leaf", *paths)):
        fg.collection(NETWORK, ("kernel", fg.pom("PI", Sphere())))


def test_of_very_many_paths_only_some_are_listed():
    many = {f"layer{number:03}": leaf(8, 4) for number in range(100)}
    with pytest.raises(
        ValueError, match=says("matches no leaf", "'layer000'", "80 more")
    ) as raised:
        fg.collection(many, ("layer", fg.pom("PI", Sphere())))
    assert "layer099" not in str(raised.value)


def test_a_rule_hidden_behind_earlier_ones_is_refused():
    expected = says(
        "'conv/kernel'", "has no effect", "earlier rules", "'conv/kernel'", "Put it before"
    )
    with pytest.raises(ValueError, match=expected):
        fg.collection(NETWORK, ("conv/*", None), ("conv/kernel", fg.pom("PI", Sphere())))
    # … also where several earlier rules hide it together.
    with pytest.raises(ValueError, match=says("'*kernel'", "has no effect")):
        fg.collection(NETWORK, ("conv/*", None), ("head/*", None), ("*kernel", None))


@pytest.mark.parametrize("rule", ["conv/*", ["conv/*", None], ("conv/*",), (3, None)])
def test_a_rule_is_a_pair(rule):
    with pytest.raises(ValueError, match=says("rule is a pair", "pom", repr(rule))):
        fg.collection(NETWORK, rule)


@pytest.mark.parametrize("wrong", [Sphere(), "PI", (Sphere(),)])
def test_a_rule_gives_a_pom_or_none(wrong):
    with pytest.raises(ValueError, match=says("'conv/*'", "pom('PO', Sphere())", repr(wrong))):
        fg.collection(NETWORK, ("conv/*", wrong))


@pytest.mark.parametrize("default", ["PI", Sphere(), (Sphere(),), 3, True])
def test_the_default_is_a_pom_none_or_by_shape(default):
    with pytest.raises(ValueError, match=says("default", "pom", "None", "by shape", repr(default))):
        fg.collection(NETWORK, default=default)


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None, True, 2**64])
def test_a_seed_is_a_non_negative_integer_that_philox_takes(seed):
    with pytest.raises(ValueError, match=says("seed", "non-negative", repr(seed))):
        fg.collection(NETWORK, seed=seed)


def test_the_largest_seed_draws():
    assert fg.collection(NETWORK, seed=2**64 - 1)["conv/kernel"].draw().groups is not None


# --- leaves that have no place on a manifold -----------------------------------------------------


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)
def test_a_vector_cannot_be_cut(manifold):
    with pytest.raises(ValueError, match=says("'conv/bias'", "(4,)", "leave it Euclidean")):
        fg.collection(NETWORK, ("conv/bias", fg.pom("PI", manifold)))


@pytest.mark.parametrize("path", ["conv/kernel", "head/kernel"])
def test_a_filter_on_stiefel_is_a_sphere_and_said_to_be(path):
    rows = {"conv/kernel": 18, "head/kernel": 8}[path]
    expected = says(repr(path), "filter", "Stiefel()", f"{rows} × 1", "Sphere()", "matrix")
    with pytest.raises(ValueError, match=expected):
        fg.collection(NETWORK, (path, fg.pom("PI", Stiefel(), component="filter")))


@pytest.mark.parametrize(
    ("shape", "manifold", "size"),
    [
        ((1, 1, 2, 4), Sphere(), "1 × 1"),
        ((1, 1, 2, 4), Oblique(), "1 × 1"),
        ((1, 3, 2, 4), Oblique(), "1 × 3"),
    ],
    ids=["1×1 Sp", "1×1 Ob", "1×3 Ob"],
)
def test_a_component_that_could_never_move_is_refused(shape, manifold, size):
    request = fg.pom("PI", (Euclidean(), manifold), component="slice")
    expected = says("'point/wise'", str(shape), repr(manifold), "dimension 0", size, "component=")
    with pytest.raises(ValueError, match=expected):
        fg.collection({"point": {"wise": leaf(*shape)}}, ("point/*", request))


@pytest.mark.parametrize("shape", [(1, 3, 2, 4), (3, 1, 2, 4), (1, 7, 1, 4)], ids=str)
def test_the_default_does_not_ask_narrow_kernels_for_the_impossible(shape):
    # Nobody asked for a manifold these kernels cannot be on: the default must be possible.
    spec = fg.collection({"narrow": leaf(*shape), "conv": leaf(3, 3, 2, 4)})
    assert spec["conv"] is not None
    if spec["narrow"] is not None:
        for manifold in spec["narrow"].manifolds:
            assert manifold.dimension(shape[:2]) > 0


@pytest.mark.parametrize("shape", [(3, 3, 0, 2), (0, 4)])
def test_a_weight_without_entries_is_refused_by_a_rule_and_passed_over_by_the_default(shape):
    params = {"empty": jnp.ones(shape), "b": jnp.ones(2)}
    with pytest.raises(ValueError, match=says("'empty'", str(shape), "Euclidean (None)")):
        fg.collection(params, ("empty", fg.pom("layer", Sphere())))
    for default in ("by shape", fg.pom("layer", Sphere())):
        assert fg.collection(params, default=default)["empty"] is None


@pytest.mark.parametrize("value", [1.0, 2, "text"])
def test_a_leaf_that_is_no_array_is_named(value):
    with pytest.raises(ValueError, match=says("'t'", repr(value), "not an array")):
        fg.collection({"t": value, "w": jnp.ones((3, 3, 2, 2))})
    with pytest.raises(ValueError, match=says("'t'", repr(value), "not an array")):
        fg.collection({"t": value, "w": jnp.ones((3, 3, 2, 2))}, ("t", None))


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_])
def test_integers_have_no_gradient(dtype):
    tree = {"embed": {"table": leaf(8, 4, dtype=dtype)}}
    expected = says("'embed/table'", jnp.dtype(dtype).name, "gradient", "Euclidean")
    with pytest.raises(ValueError, match=expected):
        fg.collection(tree, ("*", fg.pom("PI", Sphere())))


@pytest.mark.parametrize("tree", [{}, [], None, {"a": {}, "b": None}], ids=str)
def test_a_tree_without_leaves_is_refused(tree):
    with pytest.raises(ValueError, match=says("no leaves", "parameters")):
        fg.collection(tree)


# --- points --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verb", ["project", "residual", "to_tangent", "retract", "exp", "log", "dist"]
)
@pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)
def test_points_have_two_axes(manifold, verb):
    vector = jnp.ones(3) / jnp.sqrt(3.0)
    arguments = [vector] if verb in ("project", "residual") else [vector, vector]
    with pytest.raises(ValueError, match=says(repr(manifold), "(rows, columns", "(3,)", "(n, 1)")):
        getattr(manifold, verb)(*arguments)


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)
def test_shapes_of_random_points_have_two_axes(manifold):
    with pytest.raises(ValueError, match=says(repr(manifold), "(rows, columns", "(3,)")):
        manifold.random(jax.random.key(0), (3,))


@pytest.mark.parametrize("retraction", ["exp", "QR", None])
def test_a_misspelt_retraction_is_named_beside_the_ones_there_are(retraction):
    with pytest.raises(ValueError, match=says("polar, qr, cayley", repr(retraction))):
        Stiefel(retraction=retraction)


def test_a_product_takes_manifolds_and_tuples_of_points():
    with pytest.raises(TypeError, match=says("one or more manifolds", "()")):
        fg.Product()
    with pytest.raises(TypeError, match=says("manifolds", "'Sphere'")):
        fg.Product("Sphere")
    pair = fg.Product(Sphere(), Stiefel())
    with pytest.raises(ValueError, match=says("Product(Sphere(), Stiefel())", "tuple of 2", "1")):
        pair.project((jnp.ones((2, 2)),))
    with pytest.raises(ValueError, match=says("Product(Sphere(), Stiefel())", "tuple of 2")):
        pair.to_tangent((jnp.ones((2, 2)), jnp.ones((2, 2))), jnp.ones((2, 2)))


# --- weights that are not where they should be ---------------------------------------------------


def network(seed=0):
    """Arrays for NETWORK, on the manifolds of `SPEC`."""
    rng = np.random.default_rng(seed)
    arrays = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), NETWORK
    )
    return fg.project(arrays, SPEC)


SPEC = fg.collection(
    NETWORK,
    ("conv/kernel", fg.pom("PI", Sphere())),
    ("head/kernel", fg.pom("PO", Stiefel())),
    default=None,
)
LINKS = {
    "fgsgd": fg.fgsgd(0.1, SPEC, momentum=0.9),
    "rsgd": fg.rsgd(0.1, SPEC),
    "project_to_tangent": fg.project_to_tangent(SPEC),
    "trace_on_manifold": fg.trace_on_manifold(SPEC, 0.9),
    "retract_updates": fg.retract_updates(SPEC),
}


WITH_A_SPEC = {
    "fgsgd": lambda spec: fg.fgsgd(0.1, spec),
    "project_to_tangent": fg.project_to_tangent,
    "trace_on_manifold": lambda spec: fg.trace_on_manifold(spec, 0.9),
    "scale_by_fgsgd": fg.scale_by_fgsgd,
    "retract_updates": fg.retract_updates,
    "of_gradients": fg.diagnostics.of_gradients,
    "project": lambda spec: fg.project({}, spec),
    "initialize": lambda spec: fg.initialize(jax.random.key(0), {}, spec),
    "residual": lambda spec: fg.residual({}, spec),
    "report": lambda spec: fg.report({}, spec),
    "network_norms": lambda spec: fg.norms.network_norms({}, spec),
}


@pytest.mark.parametrize("name", WITH_A_SPEC)
def test_something_else_in_the_place_of_the_collection_is_told(name):
    with pytest.raises(TypeError, match=says("`spec`", "Collection", "got dict", "swapped?")):
        WITH_A_SPEC[name]({"w": jnp.ones(3)})


@pytest.mark.parametrize("optimizer", [fg.fgsgd, fg.rsgd])
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("learning_rate", "0.1"),
        ("learning_rate", None),
        ("momentum", "a"),
        ("momentum", optax.constant_schedule(0.9)),
        ("weight_decay", "a"),
        ("euclidean", 0.1),
        ("euclidean", optax.sgd),
    ],
)
def test_a_hyperparameter_of_another_kind_is_told(optimizer, name, wrong):
    given = {"learning_rate": 0.1, "spec": SPEC, name: wrong}
    with pytest.raises(TypeError, match=says(name, repr(wrong))):
        optimizer(**given)


@pytest.mark.parametrize("radius", [np.float32(2), np.int64(2), 2])
def test_numbers_of_numpy_are_coordinates_too(radius):
    assert fg.fgsgd(0.1, SPEC, coordinates=radius)


def test_coordinates_cannot_be_injected():
    tx = optax.inject_hyperparams(fg.fgsgd)(0.1, SPEC, coordinates=2.0)
    with pytest.raises(ValueError, match=says("coordinates", "static_args=('coordinates',)")):
        tx.init(jax.tree.map(lambda leaf: jnp.ones(leaf.shape), NETWORK))


def test_a_path_the_collection_does_not_have_is_told_beside_those_it_has():
    with pytest.raises(KeyError, match=says("'conv/kernl'", "'conv/kernel'")):
        SPEC["conv/kernl"]


@pytest.mark.parametrize(
    "norms", [fg.norms.component_norms, fg.norms.group_norms, fg.norms.layer_norms]
)
def test_norms_of_a_weight_of_another_shape_are_refused(norms):
    with pytest.raises(ValueError, match=says("(3, 3, 2, 5)", "(3, 3, 2, 4)")):
        norms(jnp.ones((3, 3, 2, 5)), SPEC["conv/kernel"])


@pytest.mark.sweep(fast=2)
@pytest.mark.parametrize("name", ["fgsgd", "rsgd", "retract_updates"])
def test_weights_off_their_manifold_are_refused_at_init(name):
    params = network()
    params["head"]["kernel"] = 1.5 * params["head"]["kernel"]
    # XᵀX − 1 = (2.25 − 1)·1 for four columns: a residual of 1.25·√4 = 2.5.
    expected = says("not on their manifolds", "'head/kernel'", "2.5", "project(params, spec)")
    with pytest.raises(ValueError, match=expected):
        LINKS[name].init(params)


def test_of_several_weights_off_their_manifolds_the_furthest_is_named():
    params = network()
    params["head"]["kernel"] = 1.1 * params["head"]["kernel"]
    params["conv"]["kernel"] = 5.0 * params["conv"]["kernel"]
    with pytest.raises(ValueError, match=says("2 of 2 weights", "'conv/kernel'", "residual of 4.")):
        LINKS["fgsgd"].init(params)


def test_nan_weights_are_off_every_manifold():
    params = network()
    params["conv"]["kernel"] = params["conv"]["kernel"].at[0, 0, 0, 0].set(jnp.nan)
    with pytest.raises(ValueError, match=says("'conv/kernel'", "nan")):
        LINKS["fgsgd"].init(params)


def test_numpy_weights_off_their_manifold_are_refused_too():
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 2.0, np.float32), NETWORK)
    with pytest.raises(ValueError, match="not on their manifolds"):
        LINKS["fgsgd"].init(params)


def test_weights_whose_values_are_unknown_are_taken_on_trust():
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 2.0), NETWORK)
    shapes = jax.eval_shape(LINKS["fgsgd"].init, params)
    state = jax.jit(LINKS["fgsgd"].init)(params)
    assert jax.tree.structure(state) == jax.tree.structure(shapes)


# All that takes the parameters of a spec.
USES = {
    "init": LINKS["fgsgd"].init,
    "update": lambda tree: LINKS["fgsgd"].update(tree, LINKS["fgsgd"].init(network()), tree),
    "project": lambda tree: fg.project(tree, SPEC),
    "residual": lambda tree: fg.residual(tree, SPEC),
    "initialize": lambda tree: fg.initialize(jax.random.key(0), tree, SPEC),
}


@pytest.mark.sweep(fast=4)
@pytest.mark.parametrize("use", USES)
def test_weights_of_another_shape_than_the_spec_are_refused(use):
    params = network()
    other = {**params, "head": {"kernel": jnp.ones((9, 4))}}
    expected = says("'head/kernel'", "(9, 4)", "(8, 4)", "new spec")
    with pytest.raises(ValueError, match=expected):
        USES[use](other)


def test_gradients_and_weights_of_different_shapes_are_refused():
    params = network()
    state = LINKS["fgsgd"].init(params)
    other = {**params, "head": {"kernel": jnp.ones((9, 4))}}
    for gradients, weights in ((params, other), (other, params)):
        with pytest.raises(ValueError, match=says("'head/kernel'", "(9, 4)", "(8, 4)")):
            LINKS["fgsgd"].update(gradients, state, weights)


@pytest.mark.sweep(fast=4)
@pytest.mark.parametrize("use", USES)
def test_a_leaf_the_spec_does_not_know_is_refused(use):
    params = network()
    more = {**params, "new": jnp.ones(3)}
    with pytest.raises(ValueError, match=says("no leaf 'new'", "'conv/bias', 'conv/kernel'")):
        USES[use](more)


def test_params_that_lack_a_leaf_of_the_gradients_are_refused():
    params = network()
    state = LINKS["fgsgd"].init(params)
    with pytest.raises(ValueError, match=says("'head/kernel'")):
        LINKS["fgsgd"].update(params, state, {**params, "head": {"kernel": None}})


def no_params_message():
    """Optax's own sentence, which it exports nowhere, from a transformation that raises it."""
    link = optax.keep_params_nonnegative()
    with pytest.raises(ValueError, match="params") as raised:
        link.update(jnp.ones(2), link.init(jnp.ones(2)), None)
    return str(raised.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fgsgd", "a step on a manifold starts from the present weights"),
        ("rsgd", "a step on a manifold starts from the present weights"),
        ("project_to_tangent", "tangent space"),
        ("trace_on_manifold", "carried to the present weights"),
        ("retract_updates", "retraction starts from the present weights"),
    ],
)
def test_update_without_params_says_what_optax_says_and_why(name, reason):
    params = network()
    state = LINKS[name].init(params)
    with pytest.raises(ValueError, match=says(no_params_message(), reason)):
        LINKS[name].update(params, state)


def test_the_normalizer_needs_no_params():
    link = fg.scale_by_fgsgd(SPEC)
    params = network()
    scaled, _ = link.update(params, link.init(params))
    assert jax.tree.structure(scaled) == jax.tree.structure(params)


def test_a_number_per_group_is_given_by_a_function():
    with pytest.raises((TypeError, ValueError), match=r"3\.0"):
        fg.per_group(3.0)


# --- weight decay --------------------------------------------------------------------------------

EUCLIDEAN_SPEC = fg.collection(NETWORK, default=None)


@pytest.mark.parametrize("optimizer", [fg.fgsgd, fg.rsgd])
@pytest.mark.parametrize("decay", [0.01, 1, np.float32(0.01), lambda count: 0.01])
def test_decay_warns_if_the_norm_of_every_weight_is_fixed(optimizer, decay):
    kernels = {name: {"kernel": NETWORK[name]["kernel"]} for name in ("conv", "head")}
    spec = fg.collection(kernels, ("*", fg.pom("PO", fg.Sphere())))
    expected = says("does nothing", "2 weights", "'conv/kernel'", "spec.euclidean_mask")
    with pytest.warns(UserWarning, match=expected) as caught:
        optimizer(0.1, spec, weight_decay=decay)
    assert [warning.filename for warning in caught] == [__file__], "should point to the caller"


def test_decay_warns_of_nothing_where_it_does_something():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fg.fgsgd(0.1, SPEC, weight_decay=0.01, weight_decay_mask=SPEC.euclidean_mask)
        fg.fgsgd(0.1, SPEC, weight_decay=0.01)  # its bias decays
        fg.fgsgd(0.1, EUCLIDEAN_SPEC, weight_decay=0.01)
        fg.fgsgd(0.1, SPEC, weight_decay=0.0)
        fg.fgsgd(0.1, SPEC)


def followed(tx, params, steps=3):
    """The parameters after some steps of gradients that are the same for every optimizer."""
    rng = np.random.default_rng(0)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(steps):
        gradients = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_decay_leaves_the_path_of_weights_whose_norm_is_fixed_as_it_is():
    params = network()
    decayed = followed(fg.fgsgd(0.1, SPEC, momentum=0.9, weight_decay=0.5), params)
    plain = followed(fg.fgsgd(0.1, SPEC, momentum=0.9), params)
    for path in ("conv", "head"):
        np.testing.assert_array_equal(decayed[path]["kernel"], plain[path]["kernel"])
        assert not np.array_equal(plain[path]["kernel"], params[path]["kernel"])
    assert not np.array_equal(decayed["conv"]["bias"], plain["conv"]["bias"])


def test_a_mask_that_covers_weights_whose_norm_is_fixed_warns_and_changes_nothing():
    # The usual mask, "all but biases", covers the very weights that cannot decay.
    params = network()

    def all_but_biases(tree):
        return jax.tree.map(lambda leaf: leaf.ndim > 1, tree)

    asked = {"weight_decay": 0.5, "weight_decay_mask": all_but_biases}
    with pytest.warns(UserWarning, match=says("does nothing", "2 weights", "'conv/kernel'")):
        decayed = followed(fg.fgsgd(0.1, SPEC, momentum=0.9, **asked), params)
    plain = followed(fg.fgsgd(0.1, SPEC, momentum=0.9), params)
    for path in ("conv", "head"):
        np.testing.assert_array_equal(decayed[path]["kernel"], plain[path]["kernel"])


@pytest.mark.parametrize("optimizer", [fg.fgsgd, fg.rsgd])
def test_decay_of_euclidean_leaves_is_added_to_their_gradients(optimizer):
    params = network()
    mask = SPEC.euclidean_mask
    decay = {"weight_decay": 0.5, "weight_decay_mask": mask, "euclidean": "sgd"}
    tx = optimizer(0.1, SPEC, momentum=0.9, **decay)
    found = followed(tx, params)["conv"]["bias"]
    rng = np.random.default_rng(0)
    bias, trace = np.asarray(params["conv"]["bias"], np.float64), np.zeros(4)
    for _ in range(3):
        # The leaves of NETWORK in the order of the tree: conv/bias, conv/kernel, head/kernel.
        gradient = rng.normal(size=4)
        rng.normal(size=(3, 3, 2, 4)), rng.normal(size=(8, 4))
        trace = 0.9 * trace + gradient + 0.5 * bias
        bias = bias - 0.1 * trace
    # Rounding of a few float32 sums of numbers of order 1.
    np.testing.assert_allclose(found, bias, rtol=0, atol=1e-6)

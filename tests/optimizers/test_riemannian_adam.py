"""`riemannian_adam` follows its formulas, and has none of the known defects of other versions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance_helpers import (
    by_kind,
    from_slices,
    nearest,
    random_like,
    tangent,
    to_slices,
    types_of,
)

import fgsgd_jax as fg

# 1 − b2ᵗ keeps four digits in float32, as it does in Optax.
ROUNDING = 1e-4
NAMES = ("sphere", "oblique", "stiefel")
MIXTURE = (fg.Sphere(), fg.Oblique(), fg.Stiefel())


@functools.cache
def problem(dtype="float32", scheme="PIO"):
    """Slices on three manifolds, and a Euclidean leaf."""
    params = {"conv": jnp.ones((3, 3, 2, 4), dtype), "bias": jnp.ones((3,), dtype)}
    groups = {"groups": 2} if scheme == "PIO" else {}
    spec = fg.collection(params, ("conv", fg.pom(scheme, MIXTURE, **groups)), default=None)
    return fg.project(random_like(params, seed=0), spec), spec


def sums_of_groups(spec, scheme, squares):
    """The sums over the groups of numbers per slice (C, D), at every slice."""
    if scheme == "PIO":
        groups = np.asarray(spec["conv"].draw().groups)
        return np.bincount(groups.ravel(), squares.ravel())[groups]
    axis = {"PI": 1, "PO": 0}[scheme]
    return np.broadcast_to(squares.sum(axis, keepdims=True), squares.shape)


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("amsgrad", [False, True], ids=["", "amsgrad"])
@pytest.mark.parametrize(
    ("moment", "scheme"),
    [("component", "PIO"), ("group", "PIO"), ("group", "PI"), ("group", "PO"), ("entry", "PO")],
)
def test_four_steps_follow_the_formulas(moment, scheme, amsgrad):
    params, spec = problem(scheme=scheme)
    tx = fg.riemannian_adam(0.1, spec, b1=0.8, b2=0.9, eps=1e-3, moment=moment, amsgrad=amsgrad)
    ids = np.asarray(spec["conv"].draw().manifold_ids)
    state, update = tx.init(params), jax.jit(tx.update)
    m, v, largest = 0.0, 0.0, 0.0
    for t, size in enumerate((3.0, 0.1, 1.0, 0.01), start=1):
        gradient = random_like(params, seed=t, scale=size)
        x = to_slices(params["conv"])
        g = by_kind(tangent, NAMES, ids, x, to_slices(gradient["conv"]))
        m = 0.8 * by_kind(tangent, NAMES, ids, x, m + np.zeros_like(x)) + 0.2 * g
        squares = np.sum(g**2, axis=(-2, -1))
        squares = {
            "component": lambda: squares[..., None, None],  # noqa: B023
            "group": lambda: sums_of_groups(spec, scheme, squares)[..., None, None],  # noqa: B023
            "entry": lambda: g**2,  # noqa: B023
        }[moment]()
        v = 0.9 * v + 0.1 * squares
        largest = np.maximum(largest, v) if amsgrad else v
        d = (m / (1 - 0.8**t)) / (np.sqrt(largest / (1 - 0.9**t)) + 1e-3)
        expected = by_kind(nearest, NAMES, ids, x - 0.1 * by_kind(tangent, NAMES, ids, x, d))
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["conv"], from_slices(expected), atol=2e-6)


def link_steps(gradients, **settings):
    """The directions of the link at one point of a sphere, for gradients that are tangent there."""
    params = {"w": jnp.zeros((4, 1)).at[0].set(1.0)}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())))
    link = fg.scale_by_riemannian_adam(spec, **settings)
    state = link.init(params)
    for g in gradients:
        step, state = link.update({"w": jnp.asarray([[0.0], *([x] for x in g)])}, state, params)
        yield np.asarray(step["w"])[1:, 0]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6, 1e30])
def test_in_the_first_step_every_component_moves_by_the_rate(scale):
    params, spec = problem()
    tx = fg.riemannian_adam(0.1, spec, eps=1e-20)
    link = fg.scale_by_riemannian_adam(spec, eps=1e-20)
    gradient = random_like(params, seed=1, scale=scale)
    g, _ = fg.project_to_tangent(spec).update(
        gradient, fg.project_to_tangent(spec).init(params), params
    )
    step, _ = link.update(g, link.init(params), params)
    lengths = np.linalg.norm(to_slices(step["conv"]), axis=(-2, -1))
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-5)
    updates, _ = tx.update(gradient, tx.init(params), params)
    on_sphere = np.asarray(spec["conv"].draw().manifold_ids) == 0
    chords = np.linalg.norm(to_slices(updates["conv"]), axis=(-2, -1))[on_sphere]
    np.testing.assert_allclose(chords, 2 * np.sin(np.arctan(0.1) / 2), rtol=1e-4)


def test_a_constant_gradient_gives_directions_of_length_one():
    # Defect elsewhere: the second moment summed without decay, so that steps shrink as 1/√t.
    for step in link_steps([(3.0, 0.0, 4.0)] * 6):
        np.testing.assert_allclose(step, [0.6, 0.0, 0.8], rtol=ROUNDING)


def test_the_bias_correction_is_inside_the_root():
    # Defects elsewhere: √v/(1 − b2ᵗ) for √(v/(1 − b2ᵗ)), which makes the first step √(1 − b2) long.
    first, second, third = link_steps([(1.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 3.0)])
    np.testing.assert_allclose(first, [1.0, 0.0, 0.0], rtol=ROUNDING)
    v2 = (0.999 * 1 + 4) * 0.001 / (1 - 0.999**2)
    m2 = np.array([0.09, 0.2, 0.0]) / (1 - 0.9**2)
    np.testing.assert_allclose(second, m2 / np.sqrt(v2), rtol=ROUNDING)
    v3 = (0.999**2 + 0.999 * 4 + 9) * 0.001 / (1 - 0.999**3)
    m3 = np.array([0.081, 0.18, 0.3]) / (1 - 0.9**3)
    np.testing.assert_allclose(third, m3 / np.sqrt(v3), rtol=ROUNDING)


def test_eps_is_added_after_the_bias_correction():
    # Defect elsewhere: eps inside it, where in the first step it counts 1/√(1 − b2) = 32 times.
    (first,) = link_steps([(1.0, 0.0, 0.0)], eps=1.0)
    np.testing.assert_allclose(first, [0.5, 0.0, 0.0], rtol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.1, 10.0])
def test_weight_decay_before_the_projection_does_nothing(decay):
    # Defect elsewhere: a weight_decay argument, added to the gradient before it is projected.
    params, spec = problem()
    tx = optax.chain(optax.add_decayed_weights(decay), fg.riemannian_adam(0.1, spec))
    alone = fg.riemannian_adam(0.1, spec)
    g = random_like(params, seed=1)
    updates, _ = tx.update(g, tx.init(params), params)
    expected, _ = alone.update(g, alone.init(params), params)
    np.testing.assert_allclose(updates["conv"], expected["conv"], atol=5e-6)
    assert "weight_decay" not in fg.riemannian_adam.__kwdefaults__


@pytest.mark.slow
def test_stacked_layers_do_not_share_a_second_moment():
    # Defect elsewhere: one number for a flattened stack, which mixes layers.
    heads = fg.Component(rows=(0,), columns=(2,), stack=(1,))
    params = {"w": jnp.ones((4, 2, 3))}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Stiefel(), component=heads)))
    params = fg.project(random_like(params, 0), spec)
    g = random_like(params, 1)["w"] * jnp.array([1.0, 100.0])[:, None]
    for moment in ("component", "group"):
        link = fg.scale_by_riemannian_adam(spec, moment=moment)
        first = fg.project_to_tangent(spec)
        v, _ = first.update({"w": g}, first.init(params), params)
        step, _ = link.update(v, link.init(params), params)
        np.testing.assert_allclose(np.linalg.norm(step["w"], axis=(0, 2)), 1.0, rtol=1e-5)


@pytest.mark.slow
def test_a_step_does_not_depend_on_the_basis_of_a_component():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    params = {"w": jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Stiefel())))
    params = fg.project(params, spec)
    gradients = [rng.normal(size=(6, 3)) for _ in range(3)]

    def after(matrix):
        tx = fg.riemannian_adam(0.2, spec)
        w = {"w": jnp.asarray(matrix @ np.asarray(params["w"]), jnp.float32)}
        state = tx.init(w)
        for g in gradients:
            updates, state = tx.update({"w": jnp.asarray(matrix @ g, jnp.float32)}, state, w)
            w = optax.apply_updates(w, updates)
        return w["w"]

    np.testing.assert_allclose(after(turn), turn @ after(np.eye(6)), atol=3e-6)


def test_euclidean_leaves_take_optax_adam_or_one_of_their_own():
    params, spec = problem()
    tx = fg.riemannian_adam(0.1, spec, b1=0.7, b2=0.8, eps=1e-2)
    own = fg.riemannian_adam(0.1, spec, euclidean=optax.sgd(0.5))
    adam = optax.adam(0.1, 0.7, 0.8, 1e-2)
    state, own_state, adam_state = tx.init(params), own.init(params), adam.init(params["bias"])
    for seed in (1, 2, 3):
        g = random_like(params, seed)
        updates, state = tx.update(g, state, params)
        expected, adam_state = adam.update(g["bias"], adam_state, params["bias"])
        np.testing.assert_allclose(updates["bias"], expected, rtol=1e-5)
        updates, own_state = own.update(g, own_state, params)
        np.testing.assert_allclose(updates["bias"], -0.5 * g["bias"], rtol=1e-6)


@pytest.mark.slow
def test_it_equals_the_chain_of_its_links_and_works_inside_wrappers():
    params, spec = problem()
    chain = optax.chain(
        fg.project_to_tangent(spec),
        fg.scale_by_riemannian_adam(spec),
        optax.scale_by_learning_rate(0.1),
        fg.retract_updates(spec),
    )
    plain = fg.riemannian_adam(0.1, spec)
    versions = {
        "chain": chain,
        "injected": optax.inject_hyperparams(fg.riemannian_adam)(0.1, spec),
        "scheduled": fg.riemannian_adam(optax.constant_schedule(0.1), spec),
        "MultiSteps": optax.MultiSteps(plain, 1),
        "partition": optax.partition({"all": plain}, {"conv": "all", "bias": "all"}),
    }
    g = random_like(params, 1)
    expected, _ = plain.update(g, plain.init(params), params)
    for name, tx in versions.items():
        updates, _ = tx.update(g, tx.init(params), params)
        for one, other in zip(*map(jax.tree.leaves, (updates, expected)), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_states_are_donated_and_keep_their_types(dtype):
    params, spec = problem(dtype)
    tx = fg.riemannian_adam(0.1, spec, moment="group", amsgrad=True)
    state, update = tx.init(params), jax.jit(tx.update, donate_argnums=1)
    types = types_of((params, state))
    for seed in range(4):
        updates, state = update(random_like(params, seed), state, params)
        params = optax.apply_updates(params, updates)
    assert types_of((params, state)) == types
    assert fg.residual(params, spec)["conv"] < {"bfloat16": 3e-2, "float32": 1e-6}[dtype]


def test_mapping_over_the_state_reaches_the_first_moment():
    params, spec = problem()
    tx = fg.riemannian_adam(0.1, spec)
    _, state = tx.update(random_like(params, 2), tx.init(params), params)
    doubled = optax.tree.map_params(tx, lambda leaf: 2 * leaf, state)
    mu = optax.tree.get(state, "mu", filtering=lambda path, _: len(path) == 1)["conv"]
    after = optax.tree.get(doubled, "mu", filtering=lambda path, _: len(path) == 1)["conv"]
    np.testing.assert_array_equal(after, 2 * mu)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["component", "group", "entry"])
def test_it_passes_the_check_of_optimizers(moment):
    params, spec = problem()
    tx = fg.riemannian_adam(0.1, spec, moment=moment)
    report = fg.checks.check_optimizer(tx, params, spec)
    assert report.passed, f"\n{report.failures}"


def test_an_unknown_moment_is_named():
    _, spec = problem()
    with pytest.raises(ValueError, match="'component', 'group', 'entry'; got 'entries'"):
        fg.riemannian_adam(0.1, spec, moment="entries")


ARGUMENTS = {
    "component": {},
    "group": {"moment": "group"},
    "amsgrad": {"amsgrad": True},
    "group, amsgrad": {"moment": "group", "amsgrad": True},
}


@pytest.mark.parametrize("made", ARGUMENTS)
@pytest.mark.parametrize("used", ARGUMENTS)
def test_a_state_of_other_second_moments_is_refused(made, used):
    params = {"w": jax.random.normal(jax.random.key(0), (3, 3, 2, 4))}
    spec = fg.collection(params, ("w", fg.pom("PO", fg.Sphere())))
    params = fg.project(params, spec)
    state = fg.riemannian_adam(0.1, spec, **ARGUMENTS[made]).init(params)
    update = jax.jit(fg.riemannian_adam(0.1, spec, **ARGUMENTS[used]).update)
    if made == used:
        update(params, state, params)
        return
    with pytest.raises(
        ValueError, match=r"Riemannian Adam with other arguments .*(moment|amsgrad)="
    ):
        update(params, state, params)


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"b1": 1.0}, "b1 must be at least 0 and below 1"),
        ({"b2": 1.5}, "b2 must be at least 0 and below 1"),
        ({"b2": -0.1}, "b2 must be at least 0 and below 1"),
        ({"b1": float("nan")}, "b1 must be at least 0 and below 1"),
        ({"eps": -1e-8}, "eps must be a finite number of at least 0"),
        ({"b1": True}, "b1 must be a number"),
        ({"eps": "1e-8"}, "eps must be a number"),
    ],
)
def test_constants_that_make_no_sense_are_refused(constants, message):
    spec = fg.collection({"w": jnp.ones((4, 2))}, ("w", fg.pom("layer", fg.Sphere())))
    for make in (
        lambda: fg.riemannian_adam(0.1, spec, **constants),
        lambda: fg.scale_by_riemannian_adam(spec, **constants),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            make()


@pytest.mark.parametrize("decay", [1.0, 1.5, -0.1, True, "0.9"])
def test_a_decay_of_momentum_that_makes_no_sense_is_refused_by_the_link(decay):
    spec = fg.collection({"w": jnp.ones((4, 2))}, ("w", fg.pom("layer", fg.Sphere())))
    with pytest.raises((ValueError, TypeError), match="decay must be"):
        fg.trace_on_manifold(spec, decay)

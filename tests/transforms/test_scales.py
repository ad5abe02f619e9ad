"""Re-scaling: s = γ/λ, steps in coordinates of choice, and weights that follow measured features.

The references are the formulas of the scaled manifolds themselves (‖W‖ = s), in NumPy, component
by component; the library works on W/s. Fast path and chain are held to each other on the way.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance_helpers import from_slices, to_slices
from flax import nnx

import fgsgd_jax as fg
import fgsgd_jax.nnx as fg_nnx

C, D = 3, 4
SHAPE = (3, 3, C, D)
MANIFOLDS = {"sphere": fg.Sphere(), "oblique": fg.Oblique(), "stiefel": fg.Stiefel()}


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


# --- the scaled manifolds, as in table 1 of any text ------------------------------------------


def tangent(name, w, g, s):
    if name == "sphere":
        return g - np.sum(w * g, (-2, -1), keepdims=True) * w / s**2
    if name == "oblique":
        return g - np.sum(w * g, -2, keepdims=True) * w / s**2
    product = np.swapaxes(w, -2, -1) @ g
    return g - w @ (product + np.swapaxes(product, -2, -1)) / 2 / s**2


def nearest(name, x, s):
    if name == "sphere":
        return s * x / np.sqrt(np.sum(x**2, (-2, -1), keepdims=True))
    if name == "oblique":
        return s * x / np.sqrt(np.sum(x**2, -2, keepdims=True))
    u, _, vt = np.linalg.svd(x)
    return s * u @ vt


def spread(s):
    """S of every component, to broadcast against slices (C, D, A, B)."""
    return np.broadcast_to(s, (C, D))[:, :, None, None]


def step_on_scaled(name, weight, gradient, s, rate):
    """Algorithm 1 as printed, on manifolds of radius s, with eq. (7) for the groups of PO."""
    w, g, s = to_slices(weight), to_slices(gradient), spread(s)
    v = tangent(name, w, g, s)
    norm = np.sqrt(np.sum(v**2, (0, 2, 3), keepdims=True))
    return from_slices(nearest(name, w - rate / np.maximum(1, norm * (2 + norm)) * v, s))


def kernel(seed, size=1.0):
    return size * np.random.default_rng(seed).standard_normal(SHAPE)


def placed(name, scale, scheme="PO", seed=0, **options):
    params = {"w": jnp.asarray(kernel(seed))}
    pom = fg.pom(scheme, MANIFOLDS[name])
    spec = fg.collection(params, ("w", pom), scale=scale, **options)
    return fg.project(params, spec), spec


def links(rate, spec, coordinates, momentum=None):
    trace = [] if momentum is None else [fg.trace_on_manifold(spec, momentum)]
    return optax.chain(
        fg.project_to_tangent(spec, coordinates=coordinates),
        *trace,
        fg.scale_by_fgsgd(spec),
        optax.scale_by_learning_rate(rate),
        fg.retract_updates(spec, coordinates=coordinates),
    )


# --- γ ------------------------------------------------------------------------------------------


def test_geometric_scale_is_that_of_fan_in_and_fan_out():
    params = {"conv": jnp.ones((3, 3, 8, 16)), "dense": jnp.ones((20, 30))}
    rules = ("conv", fg.pom("PO", fg.Sphere())), ("dense", fg.pom("layer", fg.Stiefel()))
    spec = fg.collection(params, *rules, scale="geometric")
    assert spec["conv"].gamma == pytest.approx((9 * 8 + 9 * 16) ** -0.5, rel=1e-12)
    assert spec["dense"].gamma == pytest.approx(50**-0.5, rel=1e-12)
    literal = fg.collection(
        params, *rules, scale="geometric", feature_map_sizes={"conv": 49, "dense": 1}
    )
    assert literal["conv"].gamma == pytest.approx((9 * 8 + 49 * 16) ** -0.5, rel=1e-12)
    assert literal["dense"].gamma == pytest.approx(50**-0.5, rel=1e-12)


@pytest.mark.parametrize(
    ("shape", "component", "fan_in", "fan_out"),
    [
        ((3, 3, 8, 16), "filter", 72, 144),
        ((3, 3, 8, 16), "matrix", 72, 144),
        ((20, 30), "filter", 20, 30),
        # heads of a query kernel, each a layer of its own; of an output kernel, as one matrix
        ((64, 8, 16), fg.Component(rows=(0,), columns=(2,), stack=(1,)), 64, 16),
        ((64, 8, 16), fg.Component(rows=(0,), columns=(1, 2)), 64, 128),
        ((16, 8, 3, 3), fg.Component((2,), (3,), inputs=(1,), outputs=(0,)), 72, 144),
    ],
)
def test_fans_follow_the_roles_of_the_axes(shape, component, fan_in, fan_out):
    pom = fg.pom("PO", fg.Sphere(), component=component, scale="geometric")
    spec = fg.collection({"w": jnp.ones(shape)}, ("w", pom))
    assert spec["w"].gamma == pytest.approx((fan_in + fan_out) ** -0.5, rel=1e-12)


def test_a_scale_is_shown_and_that_of_a_pom_goes_first():
    params = {"a": jnp.ones(SHAPE), "b": jnp.ones(SHAPE)}
    own = fg.pom("PO", fg.Sphere(), scale=0.25)
    spec = fg.collection(params, ("a", own), ("b", fg.pom("PO", fg.Sphere())), scale=np.ones(D) / 8)
    _, header, a, b, _ = str(spec).splitlines()  # and that features vanish
    assert header.split()[-1] == "scale"
    assert a.endswith("0.25")
    assert b.endswith(" 0.125")
    unscaled = fg.collection(params, ("*", fg.pom("PO", fg.Sphere())))
    assert "scale" not in str(unscaled)


@pytest.mark.slow
@pytest.mark.parametrize("name", MANIFOLDS)
@pytest.mark.parametrize("scale", [0.05, np.arange(1.0, 1 + C)[:, None]], ids=["number", "array"])
def test_weights_are_projected_drawn_and_judged_at_their_scale(name, scale, float64):
    params, spec = placed(name, scale)
    expected = from_slices(nearest(name, to_slices(kernel(0)), spread(scale)))
    np.testing.assert_allclose(params["w"], expected, rtol=1e-12)
    drawn = fg.initialize(jax.random.key(0), params, spec)
    np.testing.assert_allclose(
        np.linalg.norm(drawn["w"], axis=(0, 1)),
        np.broadcast_to(scale, (C, D)) * (1 if name == "sphere" else math.sqrt(3)),
        rtol=1e-6,
    )
    assert fg.residual(params, spec)["w"] < 1e-12
    stretched = {"w": 1.1 * params["w"]}
    unit = {"sphere": 0.1, "oblique": 0.1, "stiefel": 0.21 * math.sqrt(3)}[name]
    assert fg.residual(stretched, spec)["w"] == pytest.approx(unit, rel=1e-6)


# --- the step -------------------------------------------------------------------------------------


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("size", [0.01, 3.0], ids=["τ = 1", "τ > 1"])
@pytest.mark.parametrize("name", MANIFOLDS)
def test_scaled_coordinates_are_the_literal_reading(name, size, float64):
    s = 0.05
    params, spec = placed(name, s)
    tx = fg.fgsgd(0.01, spec, coordinates="scaled")
    updates, _ = tx.update({"w": jnp.asarray(kernel(1, size))}, tx.init(params), params)
    expected = step_on_scaled(name, np.asarray(params["w"]), kernel(1, size), s, 0.01)
    np.testing.assert_allclose(params["w"] + updates["w"], expected, rtol=0, atol=1e-12)


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("name", MANIFOLDS)
@pytest.mark.parametrize("radius", ["unit", 0.3])
def test_a_step_of_given_radius_is_that_of_weights_of_this_length(name, radius, float64):
    # X = σθ = (σ/s)W has the gradient (s/σ)·∂W; there the step is the literal one.
    s = np.array([0.02, 0.5, 2.0])[:, None]
    sigma = 1.0 if radius == "unit" else radius
    params, spec = placed(name, s)
    tx = fg.fgsgd(0.4, spec, coordinates=radius)
    updates, _ = tx.update({"w": jnp.asarray(kernel(1))}, tx.init(params), params)
    x, g = np.asarray(params["w"]) * (sigma / s), kernel(1) * s / sigma
    expected = step_on_scaled(name, x, g, sigma, 0.4) * (s / sigma)
    np.testing.assert_allclose(params["w"] + updates["w"], expected, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_without_a_scale_unit_and_scaled_coordinates_are_one():
    params, spec = placed("stiefel", None)
    gradient = {"w": jnp.asarray(kernel(1), jnp.float32)}
    one, other = (
        tx.update(gradient, tx.init(params), params)
        for tx in (fg.fgsgd(0.4, spec, coordinates=c) for c in ("unit", "scaled"))
    )
    np.testing.assert_array_equal(one[0]["w"], other[0]["w"])


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [None, 0.9])
@pytest.mark.parametrize("coordinates", ["unit", "scaled", 0.3])
def test_fast_path_and_chain_agree_while_scales_change(coordinates, momentum, float64):
    shape = (3, 3, C, D)
    params = {"w": jnp.asarray(kernel(0)), "bias": jnp.ones(2)}
    spec = fg.collection(
        params, ("w", fg.pom("PIO", tuple(MANIFOLDS.values()))), scale=0.2, default=None
    )
    start = fg.project(params, spec)

    def run(tx):
        params, state, update = start, tx.init(start), jax.jit(tx.update)
        for step in range(4):
            if step in (1, 3):
                stds = {"w": np.random.default_rng(step).uniform(0.3, 3, C)}
                state = fg.set_feature_std(state, stds)
            gradient = {"w": jnp.asarray(kernel(10 + step)), "bias": jnp.ones(2)}
            updates, state = update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        distance = fg.residual(params, spec, feature_std=fg.get_feature_std(state))["w"]
        assert distance < 1e-14
        return params

    fast = run(fg.fgsgd(0.3, spec, momentum=momentum, coordinates=coordinates))
    chain = run(links(0.3, spec, coordinates, momentum))
    assert jnp.max(jnp.abs(fast["w"] - start["w"])) > 0.01
    np.testing.assert_allclose(fast["w"], chain["w"], rtol=0, atol=1e-14)
    assert fast["w"].shape == shape


# --- re-scaling in mid-training ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rescaling_changes_no_direction(dtype):
    params = {"w": jnp.asarray(kernel(0), dtype)}
    spec = fg.collection(params, ("w", fg.pom("PO", tuple(MANIFOLDS.values()))), scale="geometric")
    params = fg.project(params, spec)
    tx = fg.fgsgd(0.1, spec, momentum=0.9)
    stds = {"w": np.array([0.2, 1.0, 7.0])}
    state = fg.set_feature_std(tx.init(params), stds)
    updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
    moved = optax.apply_updates(params, updates)
    # bfloat16 rounds entries to 2⁻⁹ and the update W_new − W, of six times W_new here, too.
    tolerance = 1e-6 if dtype == "float32" else 7 * 2.0**-9
    before, after = (to_slices(tree["w"]).reshape(C, D, -1) for tree in (params, moved))
    lengths = [np.linalg.norm(part, axis=-1) for part in (before, after)]
    np.testing.assert_allclose(
        lengths[1] / lengths[0], np.broadcast_to(1 / stds["w"][:, None], (C, D)), rtol=tolerance
    )
    chord = before / lengths[0][..., None] - after / lengths[1][..., None]
    assert np.max(np.linalg.norm(chord, axis=-1)) < tolerance
    # The second update is the first one at the new scale: nothing is left to do.
    updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, moved)
    assert not np.any(updates["w"])
    np.testing.assert_allclose(fg.get_feature_std(state)["w"], stds["w"], rtol=1e-6)


class Net(nnx.Module):
    """Two normalized convolutions and a dense layer."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv1 = nnx.Conv(1, 6, (3, 3), use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(6, epsilon=1e-12, rngs=rngs)
        self.conv2 = nnx.Conv(6, 8, (3, 3), use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(8, epsilon=1e-12, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm1(self.conv1(x)))
        x = nnx.relu(self.norm2(self.conv2(x)))
        return self.head(x.mean((1, 2)))


MEASURED = {"conv1/kernel": [0.37], "conv2/kernel": [0.1, 0.3, 2.0, 0.5, 4.0, 1.0]}


@pytest.mark.slow
@pytest.mark.parametrize("given", ["measured", "one number"])
def test_rescaling_a_normalized_network_leaves_its_loss(given):
    """Where a kernel has one λ: batch normalization undoes the multiple of it."""
    # The variance over all features of the channels is the mean of theirs.
    pooled = {path: np.mean(np.square(stds)) ** 0.5 for path, stds in MEASURED.items()}
    model = Net()
    x = jax.random.normal(jax.random.key(1), (16, 6, 6, 1))
    labels = jnp.arange(16) % 3
    params = nnx.state(model, nnx.Param)
    kernels = ("conv*/kernel", fg.pom("PO", fg.Sphere()))
    spec = fg.collection(params, kernels, default=None, scale="geometric")
    nnx.update(model, fg.project(params, spec))
    optimizer = nnx.Optimizer(model, fg.fgsgd(0.1, spec), wrt=nnx.Param)

    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

    before = float(loss(model))
    if given == "measured":
        stds = {path: jnp.array(stds) for path, stds in MEASURED.items()}
        optimizer.opt_state = fg.set_feature_std(optimizer.opt_state, stds, pooled=True)
    else:
        optimizer.opt_state = fg.set_feature_std(optimizer.opt_state, pooled)
    zeros = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
    layers = (model.conv1, model.conv2)
    lengths = [np.linalg.norm(layer.kernel[...]) for layer in layers]
    optimizer.update(model, zeros)
    shorter = [np.linalg.norm(layer.kernel[...]) for layer in layers]
    np.testing.assert_allclose(np.divide(lengths, shorter), list(pooled.values()), rtol=1e-5)
    assert abs(float(loss(model)) - before) < 1e-5
    assert fg.get_feature_std(optimizer.opt_state)["conv2/kernel"].shape == (6,)


@pytest.mark.slow
def test_measured_features_go_straight_into_the_state():
    model = Net()
    x = jax.random.normal(jax.random.key(1), (16, 6, 6, 1))
    params = nnx.state(model, nnx.Param)
    poms = (
        ("conv*/kernel", fg.pom("PO", fg.Sphere())),
        ("head/kernel", fg.pom("PO", fg.Sphere())),
    )
    spec = fg.collection(params, *poms, default=None, scale="geometric")
    params = fg.project(params, spec)
    tx = fg.fgsgd(0.1, spec)
    stds = fg_nnx.feature_std(model, x, spec=spec)
    state = fg.set_feature_std(tx.init(params), stds, min_std=1e-3)
    updates, state = jax.jit(tx.update)(jax.tree.map(jnp.zeros_like, params), state, params)
    params = optax.apply_updates(params, updates)
    kept = fg.get_feature_std(state)
    np.testing.assert_allclose(kept["conv2/kernel"], np.maximum(stds["conv2/kernel"], 1e-3))
    # A column of the head meets all its features: one λ, the root of their mean variance.
    pooled = np.sqrt(np.mean(np.maximum(stds["head/kernel"], 1e-3) ** 2))
    np.testing.assert_allclose(kept["head/kernel"], pooled, rtol=1e-6)
    np.testing.assert_allclose(
        np.linalg.norm(params["head"]["kernel"][...], axis=0), 11**-0.5 / pooled, rtol=1e-5
    )
    assert max(fg.residual(params, spec, feature_std=kept).values()) < 1e-6
    # What was measured may be given as it is.
    raised = {path: jnp.maximum(std, 1e-3) for path, std in stds.items()}
    assert max(fg.residual(params, spec, feature_std=raised).values()) < 1e-6


WRAPPERS = {
    "chain": lambda tx, spec: optax.chain(optax.clip_by_global_norm(1.0), tx),
    "MultiSteps": lambda tx, spec: optax.MultiSteps(tx, 1),
    "partition": lambda tx, spec: optax.partition(
        {"manifold": tx, "euclidean": optax.sgd(0.1)}, spec.labels
    ),
    "apply_if_finite": lambda tx, spec: optax.apply_if_finite(tx, 3),
    "inject_hyperparams": lambda tx, spec: optax.inject_hyperparams(
        lambda learning_rate: fg.fgsgd(learning_rate, spec, momentum=0.9)
    )(learning_rate=0.1),
    "the links": lambda tx, spec: links(0.1, spec, "unit", 0.9),
}


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_statistics_reach_the_state_through_wrappers(wrapper):
    params = {"w": jnp.asarray(kernel(0), jnp.float32), "bias": jnp.ones(2)}
    spec = fg.collection(params, ("w", fg.pom("PO", fg.Sphere())), scale=1.0)
    params = fg.project(params, spec)
    tx = WRAPPERS[wrapper](fg.fgsgd(0.1, spec, momentum=0.9), spec)
    stds = {"w": np.array([0.5, 1.0, 4.0])}
    state = fg.set_feature_std(tx.init(params), stds)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, new = tx.update(grads, state, params)
    moved = optax.apply_updates(params, updates)
    expected = np.broadcast_to(1 / stds["w"][:, None], (C, D))
    np.testing.assert_allclose(np.linalg.norm(moved["w"], axis=(0, 1)), expected, rtol=1e-6)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    np.testing.assert_allclose(fg.get_feature_std(new)["w"], stds["w"])


@pytest.mark.parametrize("wrapper", ["partition", "the links"])
def test_a_state_holds_no_array_twice_so_that_it_can_be_donated(wrapper):
    params, spec = placed("sphere", 1.0)
    tx = optax.chain(
        WRAPPERS[wrapper](fg.fgsgd(0.1, spec, momentum=0.9), spec),
        optax.monitor({"turns": fg.diagnostics.of_updates(spec)}),
    )
    state = tx.init(params)

    def assert_distinct():
        places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
        assert len(set(places)) == len(places)

    assert_distinct()
    state = fg.set_feature_std(state, {"w": jnp.array([0.5, 1.0, 4.0])})
    assert_distinct()
    _, state = tx.update(params, state, params)
    assert_distinct()
    _, state = jax.jit(tx.update, donate_argnums=1)(params, state, params)
    assert_distinct()


@pytest.mark.slow
def test_only_weights_that_have_a_scale_are_measured():
    model = Net()
    params = nnx.state(model, nnx.Param)
    rules = (
        ("conv1/kernel", fg.pom("PO", fg.Sphere())),
        ("conv2/kernel", fg.pom("PO", fg.Sphere(), scale=0.1)),
    )
    spec = fg.collection(params, *rules, default=None)
    x = jax.random.normal(jax.random.key(1), (16, 6, 6, 1))
    stds = fg_nnx.feature_std(model, x, spec=spec)
    assert list(stds) == ["conv2/kernel"]
    state = fg.fgsgd(0.1, spec).init(fg.project(params, spec))
    assert list(fg.get_feature_std(fg.set_feature_std(state, stds, min_std=0.1))) == list(stds)


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stds", "said"),
    [
        ({"v": np.ones(C)}, r"\['v'\]|'v'.*leaves that have a scale are 'w'"),
        ({"w": np.ones(C + 1)}, "'w'.*shape \\(4,\\).*3 input channels"),
        ({"w": np.array([1.0, 0.0, 1.0])}, "input channel 1 is 0.*min_std"),
        ({"w": np.array([1.0, 1.0, -2.0])}, "input channel 2 is -2"),
        ({"w": np.array([np.nan, 1.0, 1.0])}, "input channel 0 is nan"),
        ({"w": np.array([np.inf, 1.0, 1.0])}, "input channel 0 is inf"),
    ],
)
def test_feature_statistics_that_make_no_sense_are_refused(stds, said):
    params, spec = placed("sphere", "geometric")
    state = fg.fgsgd(0.1, spec).init(params)
    with pytest.raises(ValueError, match=said):
        fg.set_feature_std(state, stds)
    with pytest.raises(ValueError, match=said):
        fg.residual(params, spec, feature_std=stds)


@pytest.mark.parametrize("least", [0, 0.0, -1.0, np.nan, np.inf, "1", True])
def test_min_std_is_a_positive_number(least):
    params, spec = placed("sphere", "geometric")
    with pytest.raises(ValueError, match=r"min_std.*is a positive number"):
        fg.set_feature_std(fg.fgsgd(0.1, spec).init(params), {"w": np.ones(3)}, min_std=least)


def test_min_std_raises_zeros_and_nothing_else():
    params, spec = placed("sphere", "geometric")
    state = fg.fgsgd(0.1, spec).init(params)
    raised = fg.set_feature_std(state, {"w": np.array([0.0, 0.5, 2.0])}, min_std=1.0)
    np.testing.assert_array_equal(raised.spec.next_feature_std["w"], [1, 1, 2])
    np.testing.assert_array_equal(raised.spec.feature_std["w"], [1, 1, 1])
    for bad in (-1.0, np.nan):
        with pytest.raises(ValueError, match="not positive"):
            fg.set_feature_std(state, {"w": np.array([bad, 0.5, 2.0])}, min_std=1.0)


def test_a_state_without_a_scale_has_no_statistics():
    params, spec = placed("sphere", None)
    with pytest.raises(ValueError, match="without a scale"):
        fg.set_feature_std(fg.fgsgd(0.1, spec).init(params), {"w": np.ones(C)})
    assert fg.get_feature_std(fg.fgsgd(0.1, spec).init(params)) == {}


@pytest.mark.parametrize("scale", ["geometrical", -1.0, 0, np.nan, np.array([1.0, -1.0]), True, {}])
def test_a_scale_that_is_none_is_refused(scale):
    for ask in (
        lambda: fg.pom("PO", fg.Sphere(), scale=scale),
        lambda: fg.collection({"w": jnp.ones(SHAPE)}, scale=scale),
    ):
        with pytest.raises(ValueError, match="A scale is None"):
            ask()


def test_an_array_of_scales_must_fit_the_components():
    with pytest.raises(ValueError, match=r"'w' has 12 components.*\(3, 4\).*\(3,\)"):
        fg.collection({"w": jnp.ones(SHAPE)}, ("w", fg.pom("PO", fg.Sphere(), scale=np.ones(C))))


@pytest.mark.parametrize("sizes", [{"v": 4}, {"w": 0}, {"w": 2.5}])
def test_feature_map_sizes_must_fit(sizes):
    with pytest.raises(ValueError, match=r"feature_map_sizes has 'v'|feature map size of 'w'"):
        fg.collection({"w": jnp.ones(SHAPE)}, scale="geometric", feature_map_sizes=sizes)


@pytest.mark.parametrize("coordinates", ["units", 0, -1.0, math.inf, math.nan, None, True])
def test_coordinates_that_are_none_are_refused(coordinates):
    _, spec = placed("sphere", "geometric")
    for make in (fg.project_to_tangent, fg.retract_updates, lambda s, **c: fg.fgsgd(0.1, s, **c)):
        with pytest.raises(ValueError, match="coordinates of a step"):
            make(spec, coordinates=coordinates)

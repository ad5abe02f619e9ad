"""Scales that keep the variance of features, or the norms that weights have now."""

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgsgd_jax as fg

MANIFOLDS = {"sphere": fg.Sphere(), "oblique": fg.Oblique(), "stiefel": fg.Stiefel()}
MIXED = tuple(MANIFOLDS.values())
LAYERS, CHANNELS, IMAGES = 50, 32, 16


def spec_of(shape, request, **options):
    return fg.collection({"w": jax.ShapeDtypeStruct(shape, jnp.float32)}, ("w", request), **options)


CUTS = [
    *((MANIFOLDS[name], cut, 3) for name, cut in itertools.product(MANIFOLDS, ["slice", "matrix"])),
    (fg.Sphere(), "filter", 3),
    (MIXED, "slice", 3),
    *((manifold, "matrix", None) for manifold in MANIFOLDS.values()),
    (fg.Sphere(), "filter", None),
]


@pytest.mark.slow
@pytest.mark.parametrize(("manifold", "cut", "size"), CUTS, ids=str)
def test_features_keep_their_mean_square_through_fifty_relu_layers(manifold, cut, size):
    shape = (size, size, CHANNELS, CHANNELS) if size else (CHANNELS, CHANNELS)
    spec = spec_of(shape, fg.pom("PO", manifold, component=cut, scale="variance"))
    params = {"w": jnp.zeros(shape)}

    @jax.jit
    def through(keys, x):
        def layer(x, key):
            w = fg.initialize(key, params, spec)["w"]
            if size:
                x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")  # no border
                x = jax.lax.conv_general_dilated(
                    x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
            else:
                x = x @ w
            x = jax.nn.relu(x)
            return x, jnp.mean(x**2)

        return jax.lax.scan(layer, x, keys)[1]

    start = jax.random.normal(
        jax.random.key(1), (IMAGES, 4, 4, CHANNELS) if size else (4096, CHANNELS)
    )
    keys = jax.random.split(jax.random.key(0), (8, LAYERS))
    squares = jnp.stack([through(each, start) for each in keys])
    # A layer of 32 random channels multiplies the mean square by 1 ± √(5/32), and the logarithm of
    # a product of 50 drifts by ±√(50 · 5/32)/√8 seeds ≈ 1, with a bias of −50 · 5/64 ≈ −3.9. A
    # gain wrong by a factor 1.2 would drift by 50 · log 1.44 = 18.
    drift = float(jnp.mean(jnp.log(squares[:, -1])))
    assert -8 < drift < 2, drift
    # One layer, whose expectation is exact: the mean over seeds of the first layer's mean square.
    assert 0.75 < float(jnp.mean(squares[:, 0])) < 1.3


@pytest.mark.sweep(fast=3)
@pytest.mark.parametrize(
    ("shape", "request_", "outputs"),
    [
        ((3, 3, 4, 8), dict(component="slice"), 8),
        ((3, 3, 4, 8), dict(component="filter", manifold=fg.Sphere()), 8),
        ((5, 2, 4, 8), dict(component="slice"), 8),
        ((16, 6), dict(component="matrix"), 6),
        ((6, 16), dict(component="matrix"), 16),
        ((8, 4, 3, 3), dict(component="matrix", layout="OIHW"), 8),
        ((8, 4, 3, 3), dict(component="slice", layout="OIHW", manifold=MIXED), 8),
        ((12, 4, 5), dict(component="in:rows heads out:columns"), 5),
    ],
)
@pytest.mark.parametrize("gain", [None, 1.0, 5 / 3])
def test_the_squares_of_the_weights_of_an_output_average_the_square_of_the_gain(
    shape, request_, outputs, gain
):
    options = dict(request_)
    given = options.pop("manifold", None)
    for manifold in (given,) if given else MANIFOLDS.values():
        scale = "variance" if gain is None else ("variance", gain)
        spec = spec_of(shape, fg.pom("layer", manifold, **options), scale=scale)
        w = np.asarray(fg.initialize(jax.random.key(0), {"w": jnp.zeros(shape)}, spec)["w"])
        stacked = spec["w"].stacked
        expected = 2.0 if gain is None else gain**2
        np.testing.assert_allclose(np.sum(w**2) / (outputs * stacked), expected, rtol=1e-5)


@pytest.mark.slow
def test_a_manifold_of_ones_own_is_measured():
    @jax.tree_util.register_static
    class Doubled(fg.Manifold):
        """Matrices of norm 2."""

        def project(self, x):
            return 2 * fg.Sphere().project(x)

        def to_tangent(self, x, g):
            return g - jnp.sum(x * g, (0, 1)) * x / 4

        def retract(self, x, v):
            return self.project(x + v)

        def __hash__(self):
            return 7

        def __eq__(self, other):
            return isinstance(other, Doubled)

    spec = spec_of((3, 3, 4, 8), fg.pom("PO", Doubled()), scale="variance")
    assert spec["w"].gamma == pytest.approx(math.sqrt(2 / 4) / 2, rel=1e-6)


# --- the norms that weights have now -------------------------------------------------------------


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize(
    ("shape", "request_"),
    [
        ((3, 3, 4, 8), fg.pom("PO", fg.Sphere())),
        ((3, 3, 4, 8), fg.pom("PIO", MIXED)),
        ((3, 3, 4, 8), fg.pom("layer", fg.Stiefel(), component="matrix")),
        ((6, 5, 4), fg.pom("layer", fg.Oblique(), component="in:rows heads out:columns")),
        ((4, 6, 9), fg.pom("layer", fg.Stiefel(), component="matrix", layout="SIO")),
        ((7, 5), fg.pom("PO", (fg.Sphere(), fg.Euclidean()), component="filter")),
    ],
    ids=["slices", "mixed", "matrix", "heads", "stack", "Euclidean among them"],
)
def test_project_keeps_the_norm_of_every_component_under_initial(shape, request_):
    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.normal(size=shape) * rng.uniform(0.1, 10, shape[-1]), jnp.float32)
    spec = fg.collection({"w": w}, ("w", request_), scale="initial")
    projected = fg.project({"w": w}, spec)["w"]
    norms = [
        np.linalg.norm(np.asarray(spec["w"].component.to_points(array)), axis=(0, 1))
        for array in (w, projected)
    ]
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-5)
    # Stored, never measured again: twice the weights go back to the same points.
    again = fg.project({"w": 2 * w}, spec)["w"]
    if fg.Euclidean() not in request_.manifolds:
        np.testing.assert_allclose(again, projected, atol=1e-5 * float(jnp.max(jnp.abs(w))))


def test_initial_needs_values():
    with pytest.raises(ValueError, match=r"'w' has no values to measure.*outside jitted functions"):
        spec_of((3, 3, 4, 8), fg.pom("PO", fg.Sphere()), scale="initial")
    build = jax.jit(
        lambda w: fg.collection({"w": w}, default=fg.pom("PO", fg.Sphere(), scale="initial"))
    )
    with pytest.raises(ValueError, match="'w' has no values to measure"):
        build(jnp.ones((3, 3, 4, 8)))


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_initial_needs_norms_that_can_be_kept(bad):
    w = jnp.ones((3, 3, 2, 4)).at[:, :, 1, 2].set(bad)
    with pytest.raises(ValueError, match=r"'w' has a component of norm .* at \(1, 2\)"):
        fg.collection({"w": w}, ("w", fg.pom("PO", fg.Sphere())), scale="initial")


@pytest.mark.parametrize("scale", [("variance", 0), ("variance", -1.0), ("variance", "relu")])
def test_a_gain_is_positive(scale):
    with pytest.raises(ValueError, match=r"gain .* is a positive number"):
        fg.pom("PO", fg.Sphere(), scale=scale)
    with pytest.raises(ValueError, match="'variance'"):
        fg.pom("PO", fg.Sphere(), scale="varaince")


# --- a sentence where nothing keeps the size of features -----------------------------------------

PLAIN = {
    "slices": ([(3, 3, 8, 64), (3, 3, 64, 64)], fg.pom("PO", fg.Sphere(), component="slice")),
    "oblique slices": ([(5, 5, 4, 16), (3, 3, 16, 8)], fg.pom("PO", fg.Oblique())),
    "short filters": ([(128, 16), (16, 2048)], fg.pom("layer", fg.Sphere(), component="matrix")),
}


def said_growth(spec):
    """By how much features grow, as the spec says; None if it says nothing."""
    sentence = r"(make features (\S+) times as large|shrink features to (\S+) of their size); scale"
    said = re.search(sentence, str(spec))
    return said and float((said[2] or said[3]).replace(",", ""))


def measured_growth(params, spec):
    """The same, of random weights and features; a kernel of a convolution is one large matrix."""
    growth = 1.0
    for kernel in jax.tree.leaves(fg.initialize(jax.random.key(0), params, spec)):
        matrix = np.asarray(kernel).reshape(-1, kernel.shape[-1])
        x = np.random.default_rng(1).normal(size=(500, len(matrix)))
        growth *= np.sqrt(np.mean((x @ matrix) ** 2))
    return growth


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("name", PLAIN)
def test_a_spec_says_by_how_much_features_grow_without_normalization(name):
    shapes, request = PLAIN[name]
    params = {f"layer_{i}": {"kernel": jnp.zeros(shape)} for i, shape in enumerate(shapes)}
    spec = fg.collection(params, ("*", request))
    assert said_growth(spec) == pytest.approx(measured_growth(params, spec), rel=0.6)  # one digit


@pytest.mark.parametrize(
    ("shape", "manifold", "scale", "gain"),
    [
        # Every output sums 8 slices of norm γ, 9·8 + 9·8 = 144.
        ((3, 3, 8, 8), fg.Sphere(), "geometric", (8 / 144) ** 0.5),
        # Columns of norm γ, 16 + 16 = 32.
        ((16, 16), fg.Oblique(), "geometric", 32**-0.5),
        ((16, 16), fg.Stiefel(), 3.0, 3.0),
        ((16, 16), fg.Stiefel(), 0.1, 0.1),
        # Every output sums 4 slices whose three columns have norm γ.
        ((3, 3, 4, 4), fg.Stiefel(), 10.0, 10 * 12**0.5),
        ((16, 16), fg.Oblique(), ("variance", 4.0), 4.0),
    ],
    ids=str,
)
def test_any_scale_is_judged_by_how_much_features_grow_under_it(shape, manifold, scale, gain):
    params = {f"layer_{i}": {"kernel": jnp.zeros(shape)} for i in range(4)}
    spec = fg.collection(params, ("*", fg.pom("layer", manifold)), scale=scale)
    assert said_growth(spec) == pytest.approx(gain**4, rel=0.35)  # one digit


@pytest.mark.parametrize("scale", ["variance", ("variance", 1.0), ("variance", 5 / 3)])
def test_scales_that_suit_an_activation_are_not_said_to_let_features_grow(scale):
    params = {f"layer_{i}": {"kernel": jnp.zeros((16, 16))} for i in range(30)}
    assert (
        said_growth(fg.collection(params, ("*", fg.pom("layer", fg.Oblique())), scale=scale))
        is None
    )


CONVOLUTION, NORM = {"kernel": jnp.zeros((3, 3, 16, 16))}, {"scale": jnp.zeros(16)}
NOT_BESIDE = {
    "only at the end": {f"block_{i}": {"Conv_0": CONVOLUTION} for i in range(4)}
    | {"BatchNorm_0": NORM},
    "in other blocks": {f"block_{i}": {"Conv_0": CONVOLUTION} for i in range(4)}
    | {f"other_{i}": {"Conv_0": CONVOLUTION, "BatchNorm_0": NORM} for i in range(4)},
    "one for several blocks": {f"stage_{i}": {"Conv_0": CONVOLUTION} for i in range(3)}
    | {"norm_0": NORM, "norm_1": NORM},
    "lists of blocks": {"blocks": [{"conv": CONVOLUTION}] * 4, "norm": NORM},
}
BESIDE = {
    "in the same block": {
        f"block_{i}": {"Conv_0": CONVOLUTION, "BatchNorm_0": NORM} for i in range(4)
    },
    "in lists": {"convs": [CONVOLUTION] * 4, "norms": [NORM] * 4},
    "in one list": {"layers": [CONVOLUTION, NORM] * 4},
    "lists of blocks": {"blocks": [{"conv": CONVOLUTION, "bn": NORM}] * 4},
    "around an inner block": {
        f"block_{i}": {"norm": NORM, "branch": {"Conv_0": CONVOLUTION}} for i in range(4)
    },
    "at the top, one for each": {f"block_{i}": {"Conv_0": CONVOLUTION} for i in range(4)}
    | {f"BatchNorm_{i}": NORM for i in range(4)},
}


@pytest.mark.parametrize("name", NOT_BESIDE)
def test_normalization_elsewhere_does_not_hide_that_features_grow(name):
    spec = fg.collection(NOT_BESIDE[name], ("*/kernel", fg.pom("PO", fg.Sphere())))
    assert said_growth(spec) == pytest.approx(4.0 ** (4 - ("several" in name)), rel=0.3)  # √16 each


@pytest.mark.parametrize("name", BESIDE)
def test_normalization_beside_the_weights_restores_the_size_of_features(name):
    spec = fg.collection(BESIDE[name], ("*kernel", fg.pom("PO", fg.Sphere())))
    assert said_growth(spec) is None


def test_a_spec_says_nothing_where_features_keep_their_size():
    shapes, request = PLAIN["slices"]
    params = {f"layer_{i}": {"kernel": jnp.zeros(shape)} for i, shape in enumerate(shapes)}
    rule, square = ("*/kernel", request), {f"h_{i}": jnp.zeros((8, 8)) for i in range(9)}
    for quiet in (
        fg.collection(params | {"norm": {"scale": jnp.ones(8)}}, rule),
        fg.collection(params | {"BatchNorm_0": {"bias": jnp.ones(8)}}, rule),
        fg.collection(params, rule, scale="variance"),
        fg.collection({"layer_0": params["layer_0"]}, rule),  # one layer cannot do much
        fg.collection(square, ("*", fg.pom("layer", fg.Stiefel()))),
    ):
        assert "make features" not in str(quiet) + quiet._repr_html_()
    assert "make features" in fg.collection(params, rule)._repr_html_()

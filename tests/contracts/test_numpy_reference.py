"""FG-SGD a second time, in NumPy and loops, against the jitted updates of the library.

The reference below is written from the formulas alone: it finds components by plain indexing, walks
over components and groups one by one, takes polar factors from an SVD, and evaluates eq. (5) as it
stands. Only the drawn index arrays are taken from the library, since they are random.
"""

import math
from collections import defaultdict
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg

SPHERE, OBLIQUE, STIEFEL, FLAT = fg.Sphere(), fg.Oblique(), fg.Stiefel(), fg.Euclidean()
MIXED = (SPHERE, OBLIQUE, STIEFEL)

# Weights have unit components and steps are of order 0.1 to 1, so errors are absolute. A dozen
# operations in float64 cost about 1e-14; 1e-10 leaves room for the condition of a polar factor and
# of momentum over a few steps, and is far below any error in a formula.
ATOL = 1e-10

# Gradient norms and a rate for each under which groups take steps of order 0.1: below τ = 1, in
# between, and where τ is about 10¹³ (a step of order 1e-8 would hide errors below ATOL).
SIZES_AND_RATES = {1e-3: 100.0, 1.0: 2.0, 1e6: 1e7}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


# --- the reference: which entries of a weight are one component ----------------------------------


class Part(NamedTuple):
    """One component: `weight[index]`, seen as a matrix, and where it stands in its layer."""

    index: tuple
    matrix: tuple[int, int]
    lane: tuple[int, ...]
    stack: int
    input: int
    output: int


def slices(a, b, c, d):
    return [
        Part((slice(None), slice(None), i, o), (a, b), (i, o), 0, i, o)
        for i in range(c)
        for o in range(d)
    ]


def filters(a, b, c, d):
    return [Part((..., o), (a * b * c, 1), (o,), 0, 0, o) for o in range(d)]


def whole_kernel(a, b, c, d):
    return [Part((...,), (a * b * c, d), (), 0, 0, 0)]


def dense_filters(c, d):
    return [Part((..., o), (c, 1), (o,), 0, 0, o) for o in range(d)]


def dense_matrix(c, d):
    return [Part((...,), (c, d), (), 0, 0, 0)]


def heads(features, count, size):
    return [Part((slice(None), h), (features, size), (h,), h, 0, 0) for h in range(count)]


def expert_matrices(count, c, d):
    return [Part((e,), (c, d), (e,), e, 0, 0) for e in range(count)]


def expert_filters(count, c, d):
    return [
        Part((e, slice(None), o), (c, 1), (e, o), e, 0, o) for e in range(count) for o in range(d)
    ]


def expert_slices(count, a, b, c, d):
    return [
        Part((e, slice(None), slice(None), i, o), (a, b), (e, i, o), e, i, o)
        for e in range(count)
        for i in range(c)
        for o in range(d)
    ]


# --- the reference: geometry of one component ----------------------------------------------------


def nearest(manifold, x):
    if manifold == FLAT:
        return x
    if manifold == SPHERE:
        return x / np.sqrt(np.sum(x * x))
    if manifold == OBLIQUE:
        return np.stack([column / np.sqrt(column @ column) for column in x.T], axis=1)
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    return u @ vt


def tangent(manifold, x, g):
    if manifold == FLAT:
        return g
    if manifold == SPHERE:
        return g - np.sum(x * g) * x
    if manifold == OBLIQUE:
        return np.stack([h - (c @ h) * c for c, h in zip(x.T, g.T, strict=True)], axis=1)
    if x.shape[0] < x.shape[1]:
        return tangent(manifold, x.T, g.T).T
    return g - x @ (x.T @ g + g.T @ x) / 2


def retract(manifold, x, v):
    if not isinstance(manifold, fg.Stiefel) or manifold.retraction == "polar":
        return nearest(manifold, x + v)
    if x.shape[0] < x.shape[1]:
        return retract(manifold, x.T, v.T).T
    if manifold.retraction == "qr":
        q, r = np.linalg.qr(x + v)
        return q * np.sign(np.diag(r))
    eye = np.eye(len(x))
    pv = v - x @ (x.T @ v) / 2
    w = pv @ x.T - x @ pv.T
    return np.linalg.inv(eye - w / 2) @ (eye + w / 2) @ x


# --- the reference: one step of Algorithm 1 ------------------------------------------------------


def tau(g, rho=1.0, c=1.0):
    gamma = g**2 * max((2 * rho + g) ** 2, 1 + c * (rho + g))
    return math.sqrt(max(1.0, gamma))


class Reference:
    """FG-SGD on one weight. `normalizer` is "group", "component" or None (τ = 1)."""

    def __init__(self, parts, request, draw, *, momentum=0.0, nesterov=False, normalizer="group"):
        self.parts, self.draw = parts, draw
        self.scheme, self.manifolds = request.scheme, request.manifolds
        self.momentum, self.nesterov, self.normalizer = momentum, nesterov, normalizer
        self.trace = None

    def manifold(self, part):
        position = 0 if self.draw.manifold_ids is None else int(self.draw.manifold_ids[part.lane])
        return self.manifolds[position]

    def group(self, part):
        if self.normalizer == "component":
            return part.lane
        return {
            "PI": lambda: (part.stack, part.input),
            "PO": lambda: (part.stack, part.output),
            "layer": lambda: part.stack,
            "kernel": lambda: part.lane,
            "PIO": lambda: (part.stack, int(self.draw.groups[part.lane])),
        }[self.scheme]()

    def each(self, function, *arrays):
        """Applies `function(manifold, *matrices)` to every component."""
        result = np.empty_like(arrays[0])
        for part in self.parts:
            matrices = (array[part.index].reshape(part.matrix) for array in arrays)
            target = result[part.index]
            result[part.index] = function(self.manifold(part), *matrices).reshape(target.shape)
        return result

    def project(self, weight):
        return self.each(nearest, weight)

    def group_norms(self, vector):
        squares = defaultdict(float)
        for part in self.parts:
            squares[self.group(part)] += np.sum(vector[part.index] ** 2)
        return {group: math.sqrt(square) for group, square in squares.items()}

    def step(self, weight, gradient, rate, rho=1.0, c=1.0):
        direction = self.each(tangent, weight, gradient)
        if self.momentum:
            old = np.zeros_like(weight) if self.trace is None else self.trace
            self.trace = self.momentum * self.each(tangent, weight, old) + direction
            ahead = direction + self.momentum * self.trace
            direction = ahead if self.nesterov else self.trace
        step = np.empty_like(weight)
        norms = self.group_norms(direction)
        for part in self.parts:
            divisor = tau(norms[self.group(part)], rho, c) if self.normalizer else 1.0
            step[part.index] = -rate / divisor * direction[part.index]
        return self.each(retract, weight, step)


def check(
    shape,
    parts,
    request,
    *,
    optimizer=fg.fgsgd,
    settings=None,
    rho=1.0,
    c=1.0,
    sizes=SIZES_AND_RATES,
    steps=3,
    **reference_settings,
):
    """Follows library and reference over a few steps of random gradients, for every size.

    `rho` and `c` are what the reference uses: numbers, or functions of the step.
    """
    rng = np.random.default_rng(1)
    start = {"w": rng.normal(size=shape)}
    spec = fg.collection(start, ("w", request), seed=3)
    draw = spec["w"].draw()
    # The rate is an argument, so that all sizes share one compiled function.
    settings = settings or {}
    update = jax.jit(lambda rate, *arguments: optimizer(rate, spec, **settings).update(*arguments))
    for size, rate in sizes.items():
        reference = Reference(parts(*shape), request, draw, **reference_settings)
        weight = reference.project(start["w"])
        params = {"w": jnp.asarray(weight)}
        state = optimizer(rate, spec, **settings).init(params)
        for count in range(steps):
            gradient = rng.normal(size=shape)
            gradient *= size / np.linalg.norm(gradient)
            updates, state = update(rate, {"w": jnp.asarray(gradient)}, state, params)
            params = optax.apply_updates(params, updates)
            before = weight
            present = [x(count) if callable(x) else x for x in (rho, c)]
            weight = reference.step(weight, gradient, rate, *present)
            assert np.max(np.abs(weight - before)) > 1e-3, "the step is too small to be compared"
            assert params["w"].dtype == jnp.float64
            np.testing.assert_allclose(params["w"], weight, rtol=0, atol=ATOL)


# --- schemes and manifolds -----------------------------------------------------------------------


@pytest.mark.sweep(fast=3)
@pytest.mark.parametrize("scheme", ["PI", "PO", "PIO", "layer", "kernel"])
@pytest.mark.parametrize(
    "manifolds",
    [(SPHERE,), (OBLIQUE,), (STIEFEL,), MIXED, (*MIXED, FLAT)],
    ids=["Sp", "Ob", "St", "Sp+Ob+St", "Sp+Ob+St+Euc"],
)
def test_fgsgd_takes_the_steps_of_algorithm_1(scheme, manifolds):
    groups = 4 if scheme == "PIO" else None
    check((3, 3, 3, 5), slices, fg.pom(scheme, manifolds, groups=groups))


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("retraction", ["polar", "qr", "cayley"])
@pytest.mark.parametrize("shape", [(2, 3, 2, 3), (4, 3, 2, 2)], ids=["wide", "tall"])
def test_all_retractions_of_stiefel_work_on_wide_and_tall_kernels(shape, retraction):
    check(shape, slices, fg.pom("PI", fg.Stiefel(retraction=retraction), layout="HWIO"))


@pytest.mark.slow
def test_wide_kernels_can_be_mixed():
    check((2, 3, 3, 4), slices, fg.pom("PO", MIXED))


# --- momentum ------------------------------------------------------------------------------------


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("nesterov", [False, True], ids=["heavy ball", "Nesterov"])
@pytest.mark.parametrize("scheme", ["PI", "PIO"])
def test_the_normalizer_sees_momentum_carried_to_the_present_weights(scheme, nesterov):
    momentum = {"momentum": 0.9, "nesterov": nesterov}
    request = fg.pom(scheme, MIXED)
    check((3, 3, 3, 4), slices, request, settings=momentum, steps=5, **momentum)


# --- submanifold and Riemannian SGD --------------------------------------------------------------

# Without τ a step is as long as its gradient, so huge gradients would lose the digits to compare.
NORMAL_SIZES = {1e-3: 100.0, 1.0: 0.5}


@pytest.mark.slow
def test_rsgd_steps_without_a_normalizer():
    momentum = {"momentum": 0.5, "nesterov": True}
    check(
        (3, 3, 2, 4),
        slices,
        fg.pom("PI", MIXED),
        optimizer=fg.rsgd,
        settings=momentum,
        sizes=NORMAL_SIZES,
        normalizer=None,
        **momentum,
    )


def test_rsgd_with_normalize_gives_every_component_its_own_tau():
    check(
        (3, 3, 2, 4),
        slices,
        fg.pom("PIO", MIXED, groups=2),
        optimizer=fg.rsgd,
        settings={"normalize": True, "rho": 0.1, "curvature": 10.0},
        rho=0.1,
        c=10.0,
        normalizer="component",
    )


# --- cuts ----------------------------------------------------------------------------------------

HEADS = fg.Component(rows=(0,), columns=(2,), stack=(1,))
EXPERTS = fg.Component(rows=(1,), columns=(2,), stack=(0,))
EXPERT_FILTERS = fg.Component(rows=(1,), outputs=(2,), stack=(0,))
EXPERT_SLICES = fg.Component(rows=(1,), columns=(2,), inputs=(3,), outputs=(4,), stack=(0,))


@pytest.mark.sweep(fast=3)
@pytest.mark.parametrize(
    ("shape", "parts", "request_"),
    [
        ((3, 2, 2, 4), filters, fg.pom("PI", (SPHERE, FLAT), component="filter")),
        ((1, 1, 5, 4), filters, fg.pom("PO", SPHERE, component="filter")),
        ((3, 3, 2, 4), whole_kernel, fg.pom("layer", STIEFEL, component="matrix")),
        ((2, 2, 2, 12), whole_kernel, fg.pom("layer", STIEFEL, component="matrix")),
        ((3, 3, 2, 4), whole_kernel, fg.pom("PI", OBLIQUE, component="matrix")),
        ((6, 4), dense_filters, fg.pom("layer", SPHERE)),
        ((6, 5), dense_filters, fg.pom("PIO", (SPHERE, FLAT), component="filter", groups=2)),
        ((6, 4), dense_matrix, fg.pom("PO", STIEFEL)),
        ((4, 6), dense_matrix, fg.pom("PO", STIEFEL)),
        ((16, 10), dense_matrix, fg.pom("layer", OBLIQUE)),
        ((16, 10), dense_matrix, fg.pom("layer", STIEFEL)),
    ],
    ids=[
        "conv filter, mixed, PI",
        "1x1 filter, PO",
        "conv matrix on Stiefel",
        "wide conv matrix on Stiefel",
        "conv matrix on Ob",
        "dense filter by default",
        "dense filter, mixed, PIO",
        "dense matrix by default",
        "wide dense matrix",
        "dense matrix too large to unroll on Ob",
        "dense matrix too large to unroll on St",
    ],
)
def test_filters_and_matrices_are_components_too(shape, parts, request_):
    check(shape, parts, request_)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "parts", "request_"),
    [
        ((6, 3, 2), heads, fg.pom("layer", STIEFEL, component=HEADS)),
        ((3, 5, 4), expert_matrices, fg.pom("PI", OBLIQUE, component=EXPERTS)),
        ((3, 5, 4), expert_filters, fg.pom("layer", (SPHERE, FLAT), component=EXPERT_FILTERS)),
        ((2, 3, 2, 2, 3), expert_slices, fg.pom("PI", MIXED, component=EXPERT_SLICES)),
        ((2, 3, 2, 2, 3), expert_slices, fg.pom("PO", MIXED, component=EXPERT_SLICES)),
        ((2, 3, 2, 2, 3), expert_slices, fg.pom("layer", MIXED, component=EXPERT_SLICES)),
        (
            (2, 3, 2, 2, 3),
            expert_slices,
            fg.pom("PIO", MIXED, component=EXPERT_SLICES, groups=2),
        ),
    ],
    ids=[
        "a matrix per head",
        "a matrix per expert",
        "filters of experts",
        "stack, PI",
        "stack, PO",
        "stack, layer",
        "stack, PIO",
    ],
)
def test_stacked_layers_have_groups_of_their_own(shape, parts, request_):
    check(shape, parts, request_)


# --- ρ and c -------------------------------------------------------------------------------------


def halving(count):
    return 0.5**count


def growing(count):
    return 10.0 * (1 + count)


# With ρ = 0.1 and c = 10 the curvature term of eq. (5) is the larger one for medium gradients, with
# ρ = 2 it never is; c = −10 makes 1 + c(ρ + g) negative.
@pytest.mark.parametrize(
    ("rho", "c"),
    [(0.1, 10.0), (2.0, 0.5), (0.1, -10.0), (0.0, 4.0), (halving, growing)],
    ids=["curvature counts", "ρ counts", "negative curvature", "ρ = 0", "schedules"],
)
def test_rho_and_curvature_enter_as_in_equation_5(rho, c):
    settings = {"rho": rho, "curvature": c}
    check((3, 3, 2, 4), slices, fg.pom("PI", SPHERE), settings=settings, rho=rho, c=c, steps=4)


def test_rho_and_curvature_can_be_functions_of_the_group():
    # 2·3 components in 4 groups: 1.5 on average.
    rho = fg.per_group(lambda group: 0.1 * math.sqrt(group.components))
    curvature = fg.per_group(lambda group: 7.0 if group.path == "w" and group.layer else math.nan)
    check(
        (3, 3, 2, 3),
        slices,
        fg.pom("PIO", OBLIQUE, groups=4),
        settings={"rho": rho, "curvature": curvature},
        rho=0.1 * math.sqrt(1.5),
        c=7.0,
    )


def test_a_component_that_is_its_own_group_tells_per_group_so():
    sizes = []
    rho = fg.per_group(lambda group: sizes.append(group.components) or 0.1)
    check(
        (3, 3, 2, 3),
        slices,
        fg.pom("PI", SPHERE),
        optimizer=fg.rsgd,
        settings={"normalize": True, "rho": rho},
        sizes={1.0: 2.0},
        steps=1,
        rho=0.1,
        normalizer="component",
    )
    assert set(sizes) == {1}


def test_equation_7_is_equation_5_with_rho_1_in_the_reference():
    # Guards the reference itself: for ρ = 1 and 0 ≤ c ≤ 3 + g, τ = max(1, g(2 + g)).
    for g in (1e-3, 0.3, math.sqrt(2) - 1, 0.5, 3.0, 1e6):
        for c in (0.0, 1.0, 3.0 + g):
            assert tau(g, 1.0, c) == pytest.approx(max(1.0, g * (2 + g)), rel=1e-14)


# --- whole trees ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_leaves_of_a_network_do_not_see_each_other():
    rng = np.random.default_rng(7)
    shapes = {"conv": (3, 3, 2, 4), "heads": (6, 3, 2), "bias": (4,)}
    requests = {"conv": fg.pom("PIO", MIXED), "heads": fg.pom("layer", STIEFEL, component=HEADS)}
    start = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    spec = fg.collection(start, *requests.items(), default=None, seed=5)
    cuts = {"conv": slices, "heads": heads}
    references = {
        name: Reference(cuts[name](*shapes[name]), requests[name], spec[name].draw(), momentum=0.9)
        for name in requests
    }
    weights = {name: reference.project(start[name]) for name, reference in references.items()}
    bias, trace = start["bias"], np.zeros(4)
    params = jax.tree.map(jnp.asarray, {**weights, "bias": bias})
    tx = fg.fgsgd(0.3, spec, momentum=0.9, weight_decay=0.01, euclidean="sgd")
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(4):
        gradients = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        updates, state = update(jax.tree.map(jnp.asarray, gradients), state, params)
        params = optax.apply_updates(params, updates)
        for name, reference in references.items():
            weights[name] = reference.step(weights[name], gradients[name], 0.3)
            np.testing.assert_allclose(params[name], weights[name], rtol=0, atol=ATOL)
        # Euclidean leaves: SGD with L2 decay, the same rate and momentum, and no τ.
        trace = 0.9 * trace + gradients["bias"] + 0.01 * bias
        bias = bias - 0.3 * trace
        np.testing.assert_allclose(params["bias"], bias, rtol=0, atol=ATOL)

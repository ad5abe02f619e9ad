"""One test for every defect that was found in a shipped peer, so that it is not made here again."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.linalg

import fgsgd_jax as fg

TYPES = (fg.Sphere(), fg.Oblique(), fg.Stiefel())


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def skew(x):
    return (x - x.T) / 2


def orthonormal(rng, rows, columns):
    return np.linalg.qr(rng.normal(size=(rows, columns)))[0]


def on_manifolds(params, spec):
    """Random parameters, projected in one program rather than one for each operation."""
    return jax.jit(lambda params: fg.project(params, spec))(params)


def tangent_at(x, rng, length=1.0):
    """A tangent vector of some length at a tall point with orthonormal columns."""
    g = rng.normal(size=x.shape)
    v = g - x @ (x.T @ g + g.T @ x) / 2
    return v * (length / np.linalg.norm(v))


# --- riemannax: exp on Stiefel is a retraction ---------------------------------------------------

STIEFEL_CASES = [((5, 2), 0.5), ((5, 2), 2.5), ((3, 3), 1.5), ((4, 3), 6.0)]


@pytest.mark.slow
def test_exp_on_stiefel_keeps_its_digits_at_great_length():
    # Around a circle 160 times. Of a block of v and vᵀv, the exponential would have none left.
    rng = np.random.default_rng(0)
    x = orthonormal(rng, 5, 3)
    v = tangent_at(x, rng, 1000.0)
    expected = scipy.linalg.expm(v @ x.T - x @ v.T) @ x @ scipy.linalg.expm(-x.T @ v)
    found = fg.Stiefel().exp(jnp.asarray(x, jnp.float32), jnp.asarray(v, jnp.float32))
    # The float32 vector alone is wrong by 1000·eps = 1e-4, and so is every one of ten squarings.
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("shape", "length"), STIEFEL_CASES)
def test_exp_on_stiefel_is_the_matrix_exponential_formula(shape, length):
    """riemannax: `exp` on Stiefel is a retraction."""
    rng = np.random.default_rng(0)
    x = orthonormal(rng, *shape)
    v = tangent_at(x, rng, length)
    # The geodesic of the Euclidean metric through n×n exponentials (Zimmermann & Hüper, 2022,
    # α = −1/2), not the 2p×2p form of Edelman et al. that the library uses.
    expected = scipy.linalg.expm(v @ x.T - x @ v.T) @ x @ scipy.linalg.expm(-x.T @ v)
    found = fg.Stiefel().exp(jnp.asarray(x), jnp.asarray(v))
    # Two exponentials of matrices of norm up to 10: 1e-13; a retraction would differ by 1e-2.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    retracted = fg.Stiefel().retract(jnp.asarray(x), jnp.asarray(v))
    assert np.max(np.abs(retracted - expected)) > 1e-2


@pytest.mark.sweep(fast=1)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("shape", "length"), STIEFEL_CASES)
def test_exp_on_stiefel_solves_the_geodesic_equation(shape, length):
    """riemannax: `exp` on Stiefel is a retraction; it does not solve ẍ = −x(ẋᵀẋ)."""
    rng = np.random.default_rng(1)
    x = orthonormal(rng, *shape)
    v = tangent_at(x, rng, length)

    def motion(_, state):
        point, speed = state.reshape(2, *shape)
        return np.stack([speed, -point @ (speed.T @ speed)]).ravel()

    start = np.stack([x, v]).ravel()
    end = scipy.integrate.solve_ivp(motion, (0, 1), start, "DOP853", rtol=1e-12, atol=1e-13).y[
        :, -1
    ]
    found = fg.Stiefel().exp(jnp.asarray(x), jnp.asarray(v))
    # The integrator's error: its relative tolerance over some tens of steps.
    np.testing.assert_allclose(found, end.reshape(2, *shape)[0], rtol=0, atol=1e-10)


# --- riemannax: dist(X, XQ) = 0 ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_distances_on_stiefel_tell_frames_of_the_same_subspace_apart():
    """riemannax: `dist(X, XQ)` is 0 for distinct points, as if on a Grassmann manifold."""
    rng = np.random.default_rng(2)
    x = orthonormal(rng, 3, 2)
    lengths = np.array([1e-3, 0.5, 2.0, math.sqrt(2) * math.pi / 2])  # the last is a quarter turn
    # x·expm(tΩ) is a geodesic along xΩ, so the distance is ‖tΩ‖, as long as it is the shortest.
    turn = np.array([[0.0, -1.0], [1.0, 0.0]]) / math.sqrt(2)
    y = np.stack([x @ scipy.linalg.expm(length * turn) for length in lengths], axis=-1)
    x = np.repeat(x[..., None], len(lengths), axis=-1)
    # Jitted, and one shape: an iterated logarithm takes ten seconds to compile.
    found = jax.jit(fg.Stiefel().dist)(jnp.asarray(x), jnp.asarray(y))
    # `log` stops at a correction of 1e-9 of its length, and the points are rounded.
    np.testing.assert_allclose(found, lengths, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("manifold", [fg.Sphere(), fg.Oblique()], ids=str)
def test_distances_tell_points_with_turned_columns_apart(manifold):
    """riemannax: `dist(X, XQ)` is 0 for distinct points."""
    rng = np.random.default_rng(3)
    x = orthonormal(rng, 4, 3)
    y = x @ np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    if manifold == fg.Sphere():
        x, y = x / math.sqrt(3), y / math.sqrt(3)
    # Two of three columns turn by π/2. On Ob their angles add in squares; on the sphere two thirds
    # of the squared norm move away, which leaves cos(angle) = 1/3.
    expected = math.acos(1 / 3) if manifold == fg.Sphere() else math.sqrt(2) * math.pi / 2
    found = float(manifold.dist(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)))
    # Float32 rounding of the points, through an arcsine.
    assert found == pytest.approx(expected, rel=1e-6)


# --- geoopt, riemannian_dog: arccos --------------------------------------------------------------


def angle_in_float64(x, y):
    """The angle between two vectors as they are stored, by Kahan's formula in float64."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    return 2 * math.atan2(np.linalg.norm(x - y), np.linalg.norm(x + y))


# The table of measured errors of the chord formula in float32, with its "below 1e-7" as 2 eps. An
# arccosine errs by 7e-6, 1e-3, 4e-2, 3.9 and 34.
ARC_ERRORS = {1e-1: 2.4e-7, 1e-2: 2.4e-7, 1e-3: 2e-6, 1e-4: 1e-5, 1e-5: 5e-6}


@pytest.mark.sweep(fast=9)
@pytest.mark.parametrize("manifold", [fg.Sphere(), fg.Oblique()], ids=str)
@pytest.mark.parametrize("angle", ARC_ERRORS)
def test_small_distances_keep_their_digits(angle, manifold):
    """geoopt, riemannian_dog: arccos(⟨x, y⟩) is 4 % off at 1e-3 and 390 % at 1e-4 in float32."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        e, f = orthonormal(rng, 512, 2).T
        x = e.astype(np.float32)[:, None]
        y = (math.cos(angle) * e + math.sin(angle) * f).astype(np.float32)[:, None]
        found = float(manifold.dist(jnp.asarray(x), jnp.asarray(y)))
        assert found == pytest.approx(angle_in_float64(x, y), rel=ARC_ERRORS[angle])


@pytest.mark.parametrize("gap", [1e-1, 1e-3, 1e-5])
def test_distances_near_pi_keep_their_digits(gap):
    """geoopt, riemannian_dog: arccos, and arcsin of the chord alone, lose π − angle."""
    rng = np.random.default_rng(0)
    e, f = orthonormal(rng, 512, 2).T
    x = e.astype(np.float32)[:, None]
    y = (-math.cos(gap) * e + math.sin(gap) * f).astype(np.float32)[:, None]
    found = float(fg.Sphere().dist(jnp.asarray(x), jnp.asarray(y)))
    # The result is rounded to float32 beside π: half a unit in its last place is 1.2e-7.
    assert math.pi - found == pytest.approx(math.pi - angle_in_float64(x, y), abs=3e-7)


# --- riemannian_dog: exp(x, 0) -------------------------------------------------------------------


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("verb", ["exp", "retract"])
@pytest.mark.parametrize("manifold", TYPES, ids=str)
def test_a_step_of_zero_stays_and_has_the_identity_for_a_derivative(manifold, verb):
    """riemannian_dog: `exp(x, 0)` is NaN, and so is its gradient."""
    rng = np.random.default_rng(0)
    x = orthonormal(rng, 3, 2)
    u = x @ skew(rng.normal(size=(2, 2)))  # tangent to all three manifolds at this x
    if manifold == fg.Sphere():
        x = x / np.linalg.norm(x)
    x, u = jnp.asarray(x, jnp.float32), jnp.asarray(u, jnp.float32)

    def moved(v):
        return getattr(manifold, verb)(x, v)

    @jax.jit
    def at_zero(u):
        here, velocity = jax.jvp(moved, (jnp.zeros_like(x),), (u,))
        gradient = jax.grad(lambda v: jnp.sum(u * moved(v)))(jnp.zeros_like(x))
        return here, velocity, manifold.to_tangent(x, gradient)

    here, velocity, gradient = at_zero(u)
    # A few roundings of numbers below 1.
    np.testing.assert_allclose(here, x, rtol=0, atol=3e-7)
    np.testing.assert_allclose(velocity, u, rtol=0, atol=2e-6)
    np.testing.assert_allclose(gradient, u, rtol=0, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("manifold", [fg.Sphere(), fg.Oblique()], ids=str)
def test_the_distance_of_a_point_to_itself_and_its_derivative_are_finite(manifold):
    """riemannian_dog: norms at zero have NaN gradients."""
    x = manifold.random(jax.random.key(0), (4, 3))
    assert float(manifold.dist(x, x)) == 0
    assert bool(jnp.all(jnp.isfinite(jax.grad(manifold.dist, argnums=1)(x, x))))
    np.testing.assert_array_equal(manifold.log(x, x), 0)


@pytest.mark.slow
def test_a_zero_gradient_moves_nothing_at_all():
    """riemannian_dog: 0/0 at a zero step."""
    params = {"w": jax.random.normal(jax.random.key(0), (3, 3, 2, 3))}
    spec = fg.collection(params, ("w", fg.pom("PIO", TYPES)))
    params = on_manifolds(params, spec)
    tx = fg.fgsgd(0.1, spec, momentum=0.9)
    updates, _ = tx.update({"w": jnp.zeros_like(params["w"])}, tx.init(params), params)
    np.testing.assert_array_equal(updates["w"], 0)


# --- riemannax, geoopt: sign(0) in the QR retraction, random points that are not uniform ---------


def qr_by_hand(y):
    """The Q with positive R of modified Gram-Schmidt, twice, in float64."""
    q = np.array(y, np.float64)
    for _ in range(2):
        for j in range(q.shape[1]):
            for k in range(j):
                q[:, j] -= (q[:, k] @ q[:, j]) * q[:, k]
            q[:, j] /= np.linalg.norm(q[:, j])
    return q


@pytest.mark.parametrize("size", [1.0, 30.0, 1000.0])
def test_the_qr_retraction_survives_columns_that_look_the_same(size):
    """riemannax, geoopt: sign(0) = 0 in the QR retraction drops a column."""
    # A step that sends both columns the same way: x + v looks like rank one, to 1/size.
    x = np.zeros((4, 2), np.float32)
    x[0, 0] = x[1, 1] = 1
    v = np.zeros((4, 2), np.float32)
    v[2] = size
    y = fg.Stiefel(retraction="qr").retract(jnp.asarray(x), jnp.asarray(v))
    np.testing.assert_allclose(y.T @ y, np.eye(2), rtol=0, atol=1e-6)
    # Rounding of the entries times the condition of x + v.
    np.testing.assert_allclose(y, qr_by_hand(x + v), rtol=0, atol=1e-6 * (1 + size))


@pytest.mark.slow
@pytest.mark.parametrize("retraction", ["polar", "qr", "cayley"])
def test_retractions_do_not_flip_signs_at_frames_with_zeros_and_negative_entries(retraction):
    """riemannax, geoopt: the sign of a diagonal entry of R, 0 or −1, ends up in the frame."""
    signs, orders = itertools.product((1.0, -1.0), repeat=3), itertools.permutations(range(3))
    frames = [np.diag(sign)[:, order] for sign, order in itertools.product(signs, orders)]
    x = np.stack(frames, axis=-1).astype(np.float32)
    assert x.shape == (3, 3, 48)
    moved = fg.Stiefel(retraction=retraction).retract(jnp.asarray(x), jnp.zeros(x.shape))
    np.testing.assert_allclose(moved, x, rtol=0, atol=1e-6)  # a few roundings


@pytest.mark.parametrize("zero", ["all", "column"])
def test_a_matrix_of_too_low_rank_has_no_nearest_frame_and_gets_none(zero):
    """riemannax, geoopt: a zero singular value or R entry becomes a zero or arbitrary column."""
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    x[:, slice(None) if zero == "all" else 1] = 0
    with pytest.raises(ValueError, match="no nearest point to a rank-deficient component"):
        fg.Stiefel().project(jnp.asarray(x))
    assert bool(jnp.all(jnp.isnan(jax.jit(fg.Stiefel().project)(jnp.asarray(x)))))


def test_a_tall_matrix_of_low_rank_to_rounding_is_refused():
    """riemannax, geoopt: a direction that rounding chose becomes a column."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(4, 2)) @ rng.normal(size=(2, 3))).astype(np.float32)
    with pytest.raises(ValueError, match="rank-deficient component"):
        fg.Stiefel().project(jnp.asarray(x))


def test_a_square_matrix_of_low_rank_to_rounding_gets_one_of_its_two_nearest_frames():
    """riemannax, geoopt: a small singular value becomes a zero column."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(3, 2)) @ rng.normal(size=(2, 3))).astype(np.float32)
    y = np.asarray(fg.Stiefel().project(jnp.asarray(x)), np.float64)
    np.testing.assert_allclose(y.T @ y, np.eye(3), rtol=0, atol=1e-6)  # a few roundings
    # The nearest frames are those that maximize ⟨y, x⟩, which is then the sum of singular values.
    largest = np.linalg.svd(x.astype(np.float64), compute_uv=False).sum()
    assert np.sum(y * x) == pytest.approx(largest, rel=1e-6)


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize(
    ("manifold", "shape"),
    [
        (fg.Sphere(), (3, 2)),
        (fg.Oblique(), (3, 2)),
        (fg.Stiefel(), (3, 2)),
        (fg.Stiefel(), (2, 3)),
        (fg.Stiefel(), (3, 3)),
    ],
    ids=str,
)
def test_random_points_are_uniform(manifold, shape):
    """riemannax, geoopt: random frames are not Haar distributed, or all have determinant +1."""
    draws = 20_000
    x = np.asarray(manifold.random(jax.random.key(0), (*shape, draws)), np.float64)
    flat = x.reshape(-1, draws)
    # Mean 0, and covariance 1/n where n numbers share a unit norm: a point on Sp, a column on Ob, a
    # column of the longer side on St. Five standard errors, estimated from the draws.
    n = {"Sphere": math.prod(shape), "Oblique": shape[0], "Stiefel": max(shape)}
    expected = np.eye(len(flat)) / n[type(manifold).__name__]
    products = flat[:, None] * flat[None, :]
    for sample, mean in ((flat, 0.0), (products, expected)):
        error = np.abs(sample.mean(axis=-1) - mean)
        # 1e-6: entries of a product that are equal to rounding have no spread.
        assert np.all(error < 5 * sample.std(axis=-1) / math.sqrt(draws) + 1e-6)
    # Rotation invariance: turning all points leaves the fourth moments where they were.
    turn = orthonormal(np.random.default_rng(0), shape[0], shape[0])
    turned = np.einsum("ij,jkl->ikl", turn, x)
    fourth = x[0, 0] ** 4 - turned[0, 0] ** 4
    assert abs(fourth.mean()) < 5 * fourth.std() / math.sqrt(draws)
    if shape == (3, 3):
        signs = np.sign(np.linalg.det(np.moveaxis(x, -1, 0)))
        assert abs(np.mean(signs)) < 5 / math.sqrt(draws)


# --- geoopt: the momentum buffer -----------------------------------------------------------------


def normal_part(kind, x, v):
    """How much of v is not tangent at x, for a component of kind Sp, Ob or St."""
    products = x.T @ v
    if kind == 0:
        return abs(np.trace(products))
    if kind == 1:
        return np.max(np.abs(np.diag(products)))
    return np.max(np.abs(products + products.T))


@pytest.mark.sweep(fast=1)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_tangent_from_the_first_step_on(nesterov):
    """geoopt: the momentum buffer starts as the raw gradient and is not tangent at step 1."""
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(3, 3, 2, 3)))}
    spec = fg.collection(params, ("w", fg.pom("PI", TYPES)))
    manifold_ids = spec["w"].draw().manifold_ids
    params = on_manifolds(params, spec)
    tx = fg.fgsgd(0.5, spec, momentum=0.9, nesterov=nesterov)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(4):
        gradients = {"w": jnp.asarray(rng.normal(size=(3, 3, 2, 3)))}
        updates, state = update(gradients, state, params)
        trace = np.asarray(optax.tree.get(state, "trace")["w"])
        weight = np.asarray(params["w"])
        assert np.max(np.abs(trace)) > 0.1
        for lane in itertools.product(range(2), range(3)):
            # Rounding of a projection in float64.
            assert normal_part(manifold_ids[lane], weight[:, :, *lane], trace[:, :, *lane]) < 1e-13
        params = optax.apply_updates(params, updates)


@pytest.mark.usefixtures("float64")
def test_momentum_starts_as_the_projected_gradient():
    """geoopt: the momentum buffer of step 1 is the raw gradient."""
    x = np.array([[0.6], [0.8], [0.0]])
    gradient = np.array([[5.0], [0.0], [1.0]])  # ⟨x, g⟩ = 3, so the tangent part is g − 3x
    spec = fg.collection({"w": jnp.asarray(x)}, ("w", fg.pom("layer", fg.Sphere())))
    tx = fg.fgsgd(0.5, spec, momentum=0.9)
    params = {"w": jnp.asarray(x)}
    _, state = tx.update({"w": jnp.asarray(gradient)}, tx.init(params), params)
    expected = [[3.2], [-2.4], [1.0]]
    np.testing.assert_allclose(
        optax.tree.get(state, "trace")["w"], expected, rtol=1e-14, atol=1e-15
    )


# --- geoopt: weight decay ------------------------------------------------------------------------


def test_decay_of_a_norm_that_is_fixed_is_not_silent():
    """geoopt: weight decay is projected away without a word."""
    spec = fg.collection({"w": jnp.ones((3, 3, 2, 3))}, default=fg.pom("PI", fg.Stiefel()))
    with pytest.warns(UserWarning, match="weight_decay does nothing .* for 1 weight "):
        fg.fgsgd(0.1, spec, weight_decay=1e-4)


# --- MuonH: the radius is read back each step ----------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("manifold", TYPES, ids=str)
def test_a_norm_that_is_slightly_off_is_not_kept_as_the_radius(manifold):
    """MuonH: the radius is measured anew in every step, so rounding makes it wander."""
    params = {"w": jax.random.normal(jax.random.key(0), (3, 3, 2, 3))}
    spec = fg.collection(params, ("w", fg.pom("PI", manifold)))
    params = jax.tree.map(lambda w: w * (1 + 1e-4), fg.project(params, spec))
    off = float(fg.residual(params, spec)["w"])
    assert off > 0.9e-4
    tx = fg.fgsgd(0.1, spec)
    gradients = {"w": jax.random.normal(jax.random.key(1), (3, 3, 2, 3))}
    updates, _ = tx.update(gradients, tx.init(params), params)
    # Rounding of a float32 Gram matrix.
    assert float(fg.residual(optax.apply_updates(params, updates), spec)["w"]) < 1e-6


@pytest.mark.slow
def test_bfloat16_weights_stay_at_norm_1_over_many_steps():
    """MuonH: in bfloat16 the radius that is read back drifts with every rounding."""
    params = {"w": jax.random.normal(jax.random.key(0), (3, 3, 2, 3), jnp.bfloat16)}
    spec = fg.collection(params, ("w", fg.pom("PI", (fg.Sphere(), fg.Oblique()))))
    params = fg.project(params, spec)
    tx = fg.fgsgd(0.1, spec, momentum=0.9)

    @jax.jit
    def run(params, state):
        def step(carry, key):
            params, state = carry
            gradients = {"w": jax.random.normal(key, (3, 3, 2, 3), jnp.bfloat16)}
            updates, state = tx.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), fg.residual(params, spec)["w"]

        return jax.lax.scan(step, (params, state), jax.random.split(jax.random.key(1), 2000))

    (end, _), residuals = run(params, tx.init(params))
    assert end["w"].dtype == jnp.bfloat16
    assert not np.array_equal(end["w"], params["w"])
    # The resolution of bfloat16 in one unit column: 2⁻⁸.
    assert float(jnp.max(residuals)) < 2**-8


# --- Emerging-Optimizers, geoopt: the first step -------------------------------------------------


@pytest.mark.usefixtures("float64")
def test_the_first_step_is_the_one_computed_by_hand():
    """Emerging-Optimizers #299, geoopt #164: a bias factor counted twice in the first step."""
    params = {"w": jnp.array([[1.0], [0.0]])}
    gradients = {"w": jnp.array([[3.0], [4.0]])}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())))
    # The tangent part of (3, 4) at (1, 0) is (0, 4): g = 4, τ = 4·(2 + 4) = 24. Nesterov momentum
    # 0.5 makes it (0, 4 + 0.5·4) = (0, 6): τ = 6·8 = 48. The step −r·v/τ is added, and the point
    # rescaled.
    for tx, step in (
        (fg.fgsgd(0.6, spec), 0.6 * 4 / 24),
        (fg.fgsgd(0.6, spec, momentum=0.5), 0.6 * 4 / 24),
        (fg.fgsgd(0.6, spec, momentum=0.5, nesterov=True), 0.6 * 6 / 48),
        (fg.rsgd(0.6, spec), 0.6 * 4),
        (fg.rsgd(0.6, spec, normalize=True), 0.6 * 4 / 24),
    ):
        updates, _ = tx.update(gradients, tx.init(params), params)
        moved = optax.apply_updates(params, updates)["w"]
        length = math.hypot(1, step)
        np.testing.assert_allclose(moved, [[1 / length], [-step / length]], rtol=1e-14)


# --- tensorflow-riemopt: a number replaced by a flag ---------------------------------------------


@pytest.mark.usefixtures("float64")
def test_every_hyperparameter_is_used_as_a_number():
    """tensorflow-riemopt: momentum is treated as a flag, so that all its values act the same."""
    params = {"w": jnp.array([[1.0], [0.0], [0.0]])}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())))
    gradients = [{"w": jnp.array([[0.0], [2.0], [1.0]])}, {"w": jnp.array([[1.0], [0.0], [3.0]])}]

    def end(optimizer=fg.fgsgd, rate=0.5, **settings):
        tx, point = optimizer(rate, spec, **settings), params
        state = tx.init(point)
        for gradient in gradients:
            updates, state = tx.update(gradient, state, point)
            point = optax.apply_updates(point, updates)
        return np.asarray(point["w"]).ravel()

    ends = [
        end(momentum=0.3),
        end(momentum=0.6),
        end(momentum=0.6, nesterov=True),
        end(rate=0.4, momentum=0.6),
        end(rho=2.0, momentum=0.6),
        end(rho=3.0, momentum=0.6),
        end(rho=0.1, curvature=9.0, momentum=0.6),
        end(rho=0.1, curvature=20.0, momentum=0.6),
        end(fg.rsgd),
        end(fg.rsgd, momentum=0.3),
        end(fg.rsgd, momentum=0.6),
    ]
    for one, other in itertools.combinations(ends, 2):
        assert np.max(np.abs(one - other)) > 1e-4


# --- Flax WeightNorm: a report writes back -------------------------------------------------------


@pytest.mark.slow
def test_looking_at_parameters_does_not_change_them():
    """Flax #5576, #5577: WeightNorm writes the normalized weights back into the parameters."""
    rng = np.random.default_rng(0)
    raw = {"w": rng.normal(size=(3, 3, 2, 3)).astype(np.float32), "b": np.ones(3, np.float32)}
    params = jax.tree.map(np.copy, raw)  # NumPy arrays, which could be written to
    spec = fg.collection(params)
    before = hash(spec)
    str(spec), repr(spec)
    fg.residual(params, spec)
    fg.initialize(jax.random.key(0), params, spec)
    projected = fg.project(params, spec)
    tx = fg.fgsgd(0.1, spec, momentum=0.9)
    held = jax.tree.map(np.array, projected)
    state = tx.init(projected)
    tx.update(jax.tree.map(jnp.ones_like, projected), state, projected)
    for path in raw:
        np.testing.assert_array_equal(params[path], raw[path])
        np.testing.assert_array_equal(projected[path], held[path])
    np.testing.assert_array_equal(optax.tree.get(state, "trace")["w"], 0)
    assert hash(spec) == before


# --- Marin: an expert axis inside a norm ---------------------------------------------------------

EXPERT_SLICES = fg.Component(rows=(1,), columns=(2,), inputs=(3,), outputs=(4,), stack=(0,))
EXPERT_MATRICES = fg.Component(rows=(1, 2, 3), columns=(4,), stack=(0,))
EXPERTS = [
    fg.pom("PI", TYPES, component=EXPERT_SLICES),
    fg.pom("PO", fg.Sphere(), component=EXPERT_SLICES),
    fg.pom("layer", fg.Oblique(), component=EXPERT_SLICES),
    fg.pom("kernel", fg.Stiefel(), component=EXPERT_SLICES),
    fg.pom("PIO", fg.Sphere(), component=EXPERT_SLICES, groups=2),
    fg.pom("layer", fg.Stiefel(), component=EXPERT_MATRICES),
]


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize(
    "request_", EXPERTS, ids=["PI", "PO", "layer", "kernel", "PIO", "a matrix each"]
)
def test_experts_do_not_see_each_other(request_):
    """Marin #8621: the expert axis is inside a norm, so experts scale each other's steps."""
    shape = (3, 3, 3, 2, 3)
    params = {"w": jax.random.normal(jax.random.key(0), shape)}
    spec = fg.collection(params, ("w", request_))
    params = on_manifolds(params, spec)
    tx = fg.fgsgd(0.5, spec)
    state, update = tx.init(params), jax.jit(tx.update)
    gradient = jax.random.normal(jax.random.key(1), shape)
    base = np.asarray(update({"w": gradient}, state, params)[0]["w"])
    assert np.min(np.max(np.abs(base), axis=(1, 2, 3, 4))) > 0.01
    for factor in (0.0, 100.0):
        other = update({"w": gradient.at[1].multiply(factor)}, state, params)[0]["w"]
        np.testing.assert_array_equal(other[0], base[0])
        np.testing.assert_array_equal(other[2], base[2])
        assert not np.array_equal(other[1], base[1])


@pytest.mark.slow
@pytest.mark.parametrize("axis", [2, 3], ids=["input channels", "output channels"])
def test_permuting_groups_permutes_their_steps(axis):
    """Marin #8621: groups that share a norm do not commute with a permutation of the groups."""
    shape = (3, 3, 3, 4)
    params = {"w": jax.random.normal(jax.random.key(0), shape)}
    spec = fg.collection(params, ("w", fg.pom({2: "PI", 3: "PO"}[axis], fg.Stiefel())))
    params = on_manifolds(params, spec)
    tx = fg.fgsgd(0.5, spec)
    state, update = tx.init(params), jax.jit(tx.update)
    # Very different gradients, so that a shared norm would show.
    sizes = jnp.asarray(10.0 ** np.arange(shape[axis])).reshape([-1, 1] if axis == 2 else [-1])
    gradient = jax.random.normal(jax.random.key(1), shape) * sizes
    order = np.roll(np.arange(shape[axis]), 1)
    base, _ = update({"w": gradient}, state, params)
    permuted, _ = update(
        {"w": jnp.take(gradient, order, axis)},
        state,
        {"w": jnp.take(params["w"], order, axis)},
    )
    np.testing.assert_array_equal(permuted["w"], jnp.take(base["w"], order, axis))

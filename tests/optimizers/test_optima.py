"""Optimizers reach optima that are known in closed form, and τ keeps steps from overshooting."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg

# Where gradient descent with a fixed rate converges at all it converges linearly, so the distance
# asked for costs steps, not luck: 1e-6 is far below float32 and far above float64.
CLOSE = 1e-6


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def train(tx, loss, params, steps):
    """The parameters after some steps, and the losses before each of them and at the end."""

    def step(carry, _):
        params, state = carry
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), value

    @jax.jit
    def run(params, state):
        (params, _), losses = jax.lax.scan(step, (params, state), length=steps)
        return params, jnp.append(losses, loss(params))

    params, losses = run(params, tx.init(params))
    return jax.tree.map(np.asarray, params), np.asarray(losses)


def orthonormal(rng, rows, columns):
    return np.linalg.qr(rng.normal(size=(rows, columns)))[0]


def polar(x):
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    return u @ vt


def unit(x):
    return x / np.linalg.norm(x)


# --- known optima --------------------------------------------------------------------------------


def test_spheres_find_leading_eigenvectors():
    rng = np.random.default_rng(0)
    bases = np.stack([orthonormal(rng, 6, 6) for _ in range(3)])
    values = np.array([2.0, 1.0, 0.5, 0.5, 0.2, 0.1])
    matrices = (bases * values) @ bases.transpose(0, 2, 1)
    params = {"w": rng.normal(size=(6, 3))}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere(), component="filter")))
    params = fg.project(jax.tree.map(jnp.asarray, params), spec)

    def loss(params):
        return -0.5 * jnp.einsum("id,dij,jd->", params["w"], matrices, params["w"])

    found, losses = train(fg.fgsgd(0.5, spec), loss, params, 400)
    for column, basis in zip(found["w"].T, bases, strict=True):
        leading = basis[:, 0] * np.sign(basis[:, 0] @ column)
        assert np.linalg.norm(column - leading) < CLOSE
    assert losses[-1] == pytest.approx(-0.5 * 3 * values[0], abs=CLOSE)


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("retraction", ["polar", "qr", "cayley"])
@pytest.mark.parametrize("shape", [(6, 3), (3, 6)], ids=["tall", "wide"])
def test_stiefel_solves_the_procrustes_problem(shape, retraction):
    # The point nearest to B is its polar factor. Tall and wide Stiefel manifolds are connected.
    rng = np.random.default_rng(1)
    target = orthonormal(rng, 6, 3) * [2.0, 1.5, 1.0] @ orthonormal(rng, 3, 3)
    target = target if shape == (6, 3) else target.T
    params = {"w": rng.normal(size=shape)}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Stiefel(retraction=retraction))))
    params = fg.project(jax.tree.map(jnp.asarray, params), spec)

    def loss(params):
        return 0.5 * jnp.sum((params["w"] - target) ** 2)

    found, _ = train(fg.fgsgd(0.5, spec), loss, params, 300)
    assert np.linalg.norm(found["w"] - polar(target)) < CLOSE


def test_oblique_columns_point_to_their_targets():
    rng = np.random.default_rng(2)
    target = rng.normal(size=(5, 4))
    params = {"w": rng.normal(size=(5, 4))}
    spec = fg.collection(params, ("w", fg.pom("PO", fg.Oblique())))
    params = fg.project(jax.tree.map(jnp.asarray, params), spec)
    found, _ = train(fg.fgsgd(0.4, spec), lambda p: -jnp.sum(target * p["w"]), params, 400)
    expected = np.stack([unit(column) for column in target.T], axis=1)
    assert np.linalg.norm(found["w"] - expected) < CLOSE


def off_manifold_penalty(x, manifold):
    """How far one 4×3 component is from its manifold: 0 on it, steep around it."""
    gram = x.T @ x
    if manifold == fg.Sphere():
        return (jnp.trace(gram) - 1) ** 2
    if manifold == fg.Oblique():
        return jnp.sum((jnp.diag(gram) - 1) ** 2)
    return jnp.sum((gram - jnp.eye(3)) ** 2) if manifold == fg.Stiefel() else 0.0


OPTIMIZERS = {
    "fgsgd": lambda spec: fg.fgsgd(0.3, spec),
    "fgsgd with Nesterov momentum": lambda spec: fg.fgsgd(0.3, spec, momentum=0.8, nesterov=True),
    "Submanifold SGD": lambda spec: fg.rsgd(0.3, spec, normalize=True),
    "rsgd with momentum": lambda spec: fg.rsgd(0.05, spec, momentum=0.8),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_mixed_product_reaches_the_nearest_point_of_every_component(name):
    # Every component has its own optimum, and the loss adds 100 times the distance from the
    # manifolds (geoopt's trick): an optimizer that drifts off is thrown back or blows up.
    rng = np.random.default_rng(3)
    manifolds = (fg.Sphere(), fg.Oblique(), fg.Stiefel(), fg.Euclidean())
    shape = (4, 3, 2, 4)
    target, start = np.empty(shape), rng.normal(size=shape)
    for lane in itertools.product(range(2), range(4)):
        # Singular values in [1, 2] keep the problem well conditioned on all manifolds.
        left, right = orthonormal(rng, 4, 3), orthonormal(rng, 3, 3)
        target[:, :, *lane] = left * rng.uniform(1, 2, 3) @ right
    spec = fg.collection({"w": start}, ("w", fg.pom("PIO", manifolds, groups=2)), seed=1)
    params = fg.project({"w": jnp.asarray(start)}, spec)
    manifold_ids = spec["w"].draw().manifold_ids
    assert set(manifold_ids.ravel()) == {0, 1, 2, 3}, "all manifolds should be there"

    def loss(params):
        penalty = sum(
            off_manifold_penalty(params["w"][:, :, *lane], manifolds[manifold_ids[lane]])
            for lane in itertools.product(range(2), range(4))
        )
        return 0.5 * jnp.sum((params["w"] - target) ** 2) + 100 * penalty

    found, _ = train(OPTIMIZERS[name](spec), loss, params, 500)
    nearest = {
        0: unit,
        1: lambda x: np.stack([unit(column) for column in x.T], axis=1),
        2: polar,
        3: lambda x: x,
    }
    for lane in itertools.product(range(2), range(4)):
        expected = nearest[int(manifold_ids[lane])](target[:, :, *lane])
        assert np.linalg.norm(found["w"][:, :, *lane] - expected) < CLOSE, manifold_ids[lane]


# --- what τ is for -------------------------------------------------------------------------------


def near_a_minimum(distance, lanes=(8, 8), seed=0):
    """Directions a, and points of 3×3 spheres with ⟨a, x⟩ = `distance` in every lane."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 3, 3, *lanes))
    a /= np.sqrt(np.sum(a**2, axis=(0, 1)))
    b -= a * np.sum(a * b, axis=(0, 1))
    b /= np.sqrt(np.sum(b**2, axis=(0, 1)))
    return a, {"w": jnp.asarray(distance * a + math.sqrt(1 - distance**2) * b)}


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("scheme", ["layer", "PIO"])
def test_one_tau_per_group_descends_where_steps_without_it_diverge(scheme):
    # f = ¼(Σᵢ⟨aᵢ, xᵢ⟩)⁴ over 64 spheres: a minimum (0) lies close to the start (¼), but all
    # components push at once, and the slope grows with the third power on either side.
    # Measured over 1000 steps at rate 0.1: fgsgd falls at every step, to 2e-9; rsgd jumps to 4e6
    # and ends at 2e6; with one τ per component (Submanifold SGD) the first steps rise to 2.
    a, params = near_a_minimum(1 / 64)
    spec = fg.collection(params, ("w", fg.pom(scheme, fg.Sphere())))

    def loss(params):
        return 0.25 * jnp.sum(a * params["w"]) ** 4

    _, fine = train(fg.fgsgd(0.1, spec), loss, params, 1000)
    assert fine[0] == pytest.approx(0.25)
    assert np.all(np.diff(fine) < 0)
    assert fine[-1] < 1e-7 * fine[0]
    _, naive = train(fg.rsgd(0.1, spec), loss, params, 1000)
    assert np.min(naive[-100:]) > 1e5 * naive[0]
    _, apart = train(fg.rsgd(0.1, spec, normalize=True), loss, params, 1000)
    assert np.max(apart) > 4 * apart[0]


def test_tau_descends_a_steep_quartic_that_plain_steps_oscillate_on():
    # f = 25 Σᵢ⟨aᵢ, xᵢ⟩⁴ at rate 1: rsgd overshoots the minimum and ends in a cycle at a loss of
    # 367, from 13; fgsgd falls at every step, to 1.5e-7.
    a, params = near_a_minimum(0.3)
    spec = fg.collection(params, ("w", fg.pom("PI", fg.Sphere())))

    def loss(params):
        return 25 * jnp.sum(jnp.sum(a * params["w"], axis=(0, 1)) ** 4)

    _, fine = train(fg.fgsgd(1.0, spec), loss, params, 500)
    assert np.all(np.diff(fine) < 0)
    assert fine[-1] < 1e-6 * fine[0]
    _, naive = train(fg.rsgd(1.0, spec), loss, params, 500)
    assert np.min(naive[-100:]) > 10 * naive[0]


def test_no_step_of_a_group_is_longer_than_0_42_times_the_rate():
    # r·g up to g = √2 − 1, r/(2 + g) beyond: r(√2 − 1) at most (eq. 7).
    _, params = near_a_minimum(0.3, lanes=(2, 3))
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())))
    link = fg.scale_by_fgsgd(spec)
    update = jax.jit(link.update)
    state = link.init(params)
    direction = params["w"] / jnp.linalg.norm(params["w"])
    longest = math.sqrt(2) - 1
    for g in [*np.geomspace(1e-6, 1e6, 25), longest]:
        step, _ = update({"w": g * direction}, state)
        # Rounding of a product and a quotient.
        expected = g if g <= longest else 1 / (2 + g)
        assert np.linalg.norm(step["w"]) == pytest.approx(expected, rel=1e-13)
        assert np.linalg.norm(step["w"]) <= longest * (1 + 1e-13)


# --- the schedule of eq. (4) ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "power", "expected"),
    [
        (0, 1.0, 0.8),
        (50, 1.0, 0.4),
        (150, 1.0, 0.2),
        (150, 0.75, 0.8 / 4**0.75),
        (350, 0.6, 0.8 / 8**0.6),
    ],
)
def test_robbins_monro_is_r0_over_a_power_of_1_plus_t_over_T(count, power, expected):
    schedule = fg.robbins_monro(0.8, transition_steps=50, power=power)
    assert float(schedule(count)) == pytest.approx(expected, rel=1e-14)
    # JAX divides the int32 count of an optimizer state in float32 (as in Optax's schedules): 2 eps.
    traced = jax.jit(schedule)(jnp.asarray(count, jnp.int32))
    assert float(traced) == pytest.approx(expected, rel=2.4e-7)


@pytest.mark.parametrize("power", [0.51, 0.75, 1.0])
def test_robbins_monro_rates_sum_to_infinity_and_their_squares_do_not(power):
    rate, transition, steps = 0.5, 10.0, 2**17
    rates = np.asarray(fg.robbins_monro(rate, transition, power)(np.arange(steps)))
    sums, squares = np.cumsum(rates), np.cumsum(rates**2)
    assert np.all(np.diff(rates) < 0)
    # Between the integral of r₀(1 + t/T)^−α and the same plus the first term, at any length.
    for count in (10, 1000, steps):
        end = 1 + count / transition
        integral = math.log(end) if power == 1 else (end ** (1 - power) - 1) / (1 - power)
        integral *= rate * transition
        assert integral < sums[count - 1] < integral + rate
    # Σ r_t = ∞: every doubling adds at least about r₀·T·ln 2 (α = 1; more for smaller α).
    doublings = sums[2 ** np.arange(8, 17) * 2 - 1] - sums[2 ** np.arange(8, 17) - 1]
    assert np.min(doublings) > 0.95 * rate * transition * math.log(2)
    # Σ r_t² < r₀²(1 + ∫₀^∞(1 + t/T)^−2α dt) = r₀²(1 + T/(2α − 1)).
    assert squares[-1] < rate**2 * (1 + transition / (2 * power - 1))


@pytest.mark.parametrize("power", [0.5, 0.0, -1.0, 1.01, math.inf, math.nan])
def test_robbins_monro_refuses_powers_without_the_guarantee(power):
    with pytest.raises(ValueError, match=rf"power in \(1/2, 1\].*not {power}"):
        fg.robbins_monro(0.1, 100, power)


@pytest.mark.parametrize("steps", [0, -5, math.nan])
def test_robbins_monro_refuses_a_transition_of_no_length(steps):
    with pytest.raises(ValueError, match=f"transition_steps above 0, not {steps}"):
        fg.robbins_monro(0.1, steps)


@pytest.mark.slow
def test_robbins_monro_drives_fgsgd_to_the_optimum():
    # Noisy gradients: a fixed rate stops at a distance set by the noise, a falling one does not.
    rng = np.random.default_rng(4)
    target = unit(rng.normal(size=(9, 1)))
    params = {"w": jnp.asarray(unit(rng.normal(size=(9, 1))))}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere(), component="filter")))
    noise = rng.normal(size=(4000, 9, 1))

    def distance(rate):
        tx = fg.fgsgd(rate, spec)

        @jax.jit
        def run(params, state):
            def step(carry, noise):
                params, state = carry
                gradients = {"w": noise - target}
                updates, state = tx.update(gradients, state, params)
                params = optax.apply_updates(params, updates)
                return (params, state), jnp.linalg.norm(params["w"] - target)

            return jax.lax.scan(step, (params, state), noise)[1]

        # The mean over the last steps, so that one lucky step does not decide.
        return float(jnp.mean(run(params, tx.init(params))[-400:]))

    # Measured: 0.42 at the fixed rate 0.5, 0.07 with the schedule, means over 400 noisy steps.
    assert distance(fg.robbins_monro(0.5, 20)) < distance(0.5) / 3

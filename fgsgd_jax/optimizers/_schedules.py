"""`robbins_monro`: a learning rate schedule with a convergence guarantee."""

import jax.numpy as jnp
import optax

from fgsgd_jax._numbers import require_not_negative, require_number


def robbins_monro(init_value: float, transition_steps: float, power: float = 1.0) -> optax.Schedule:
    """The learning rate r₀/(1 + t/T)^α, under which the convergence theorems hold.

    For ½ < α ≤ 1 it satisfies Σ r_t = ∞ and Σ r_t² < ∞ (eq. 4).

    Args:
        init_value: r₀, the rate at step 0.
        transition_steps: T, the number of steps after which the rate is r₀/2^α.
        power: α.

    Returns:
        A schedule: a function from the step count to the rate.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If r₀ is negative, or α or T outside its range.

    Example:
        >>> schedule = robbins_monro(0.5, transition_steps=100, power=1.0)
        >>> float(schedule(0)), float(schedule(100))
        (0.5, 0.25)

    References:
        Robbins & Monro, *A stochastic approximation method*, 1951; Ozay, 2019, eq. (4).
    """
    require_not_negative("init_value", init_value)
    require_number("transition_steps", transition_steps)
    require_number("power", power)
    if not 0.5 < power <= 1:
        raise ValueError(
            "robbins_monro needs a power in (1/2, 1], so that its sum diverges and the sum of its "
            f"squares converges, not {power}."
        )
    if not transition_steps > 0:
        raise ValueError(f"robbins_monro needs transition_steps above 0, not {transition_steps}.")

    def schedule(count):
        return init_value / (1 + jnp.asarray(count) / transition_steps) ** power

    return schedule

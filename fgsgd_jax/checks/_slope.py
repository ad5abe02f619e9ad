"""The slope of an error on a log-log plot, which is the order of an approximation."""

import math

import numpy as np

# The step lengths t at which an error is computed.
LENGTHS = np.logspace(-8, 0, 101)


def slope(errors: np.ndarray, window: int = 20) -> float:
    """The slope of the straightest window of the errors at `LENGTHS`, on a log-log plot.

    Round-off flattens the left end of the plot, higher orders bend the right end; the linear fit
    with the smallest residual lies between them (as in Manopt's `identify_linear_piece`).

    Returns:
        The slope; NaN if too few errors are above round-off.
    """
    above_rounding = errors > 1e-14 * max(1.0, float(np.max(errors)))
    x, y = np.log10(LENGTHS[above_rounding]), np.log10(errors[above_rounding])
    if len(x) < window:
        return math.nan
    fits = []
    for start in range(len(x) - window + 1):
        part = slice(start, start + window)
        coefficients, residuals, *_ = np.polyfit(x[part], y[part], 1, full=True)
        fits.append((float(residuals[0]) if len(residuals) else 0.0, float(coefficients[0])))
    return min(fits)[1]

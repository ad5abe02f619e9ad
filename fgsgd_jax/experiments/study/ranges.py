"""In how wide a range of learning rates a method is good."""

from collections.abc import Mapping

import numpy as np


def good_decades(curve: Mapping[float, float], times: float) -> float:
    """The decades around the best rate in which a curve is at most some times its lowest value.

    Between two rates, values are linear in the logarithm of the rate.

    Args:
        curve: An error or a loss by learning rate, in ascending order of the rates.
        times: How many times the lowest value is still good.

    Example:
        >>> round(good_decades({0.1: 2.0, 1.0: 1.0, 10.0: 2.0}, 1.5), 3)
        1.0
    """
    rates, values = map(np.array, zip(*curve.items(), strict=True))
    logs = np.linspace(np.log10(rates[0]), np.log10(rates[-1]), 10_001)
    good = np.interp(logs, np.log10(rates), values) <= times * values.min()
    best = np.searchsorted(logs, np.log10(rates[values.argmin()]))
    bad = np.flatnonzero(~good)
    first = bad[bad < best].max(initial=-1) + 1
    last = bad[bad > best].min(initial=len(logs)) - 1
    return float(logs[last] - logs[first])

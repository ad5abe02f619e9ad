"""Averages of weights along straight lines, inside of which no optimizer stays on manifolds."""

import inspect
from typing import Any

import jax
import optax

from fgsgd_jax.geometry import Euclidean
from fgsgd_jax.spec import Collection

LEAVES_MANIFOLDS = (
    "optax.contrib.schedule_free keeps averages of weights along straight lines, which leave the "
    "manifolds. Take its base optimizer alone, with fgsgd_jax.average_on_manifolds(spec) behind it "
    "in a chain, or with a rate that falls."
)
AROUND = (
    "optax.lookahead keeps fast and slow weights of its own, so it has to be around the optimizer "
    "and everything that wraps it, with a link behind it that keeps both on the manifolds: "
    "optax.chain(optax.lookahead(tx, 5, 0.5), fgsgd_jax.keep_on_manifolds(spec)), for parameters "
    "optax.LookaheadParams.init_synced(params)."
)
_FILE = optax.contrib.schedule_free.__code__.co_filename


def require_no_straight_averages(spec: Collection) -> None:
    """Raises if an `init` was called by `optax.contrib.schedule_free`, also in a jitted function.

    The functions that are being called have to tell: all that the wrapper hands on looks as it does
    without it, until the third update starts from an average.
    """
    flat = all(
        isinstance(manifold, Euclidean)
        for _, leaf_spec in spec.on_manifolds()
        for manifold in leaf_spec.manifolds
    )
    frame = None if flat else inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_filename == _FILE:
            raise ValueError(LEAVES_MANIFOLDS)
        frame = frame.f_back


def initial_state(tx: optax.GradientTransformation, params: Any) -> Any:
    """`tx.init(params)`, for an optimizer that was given to one of this library.

    Raises:
        ValueError: If it holds `optax.lookahead`, but the parameters are not pairs.
    """

    def is_lookahead(node):
        return isinstance(node, optax.LookaheadState)

    state = tx.init(params)
    if not isinstance(params, optax.LookaheadParams):
        nodes = jax.tree.leaves(state, is_leaf=is_lookahead)
        if any(map(is_lookahead, nodes)):
            raise ValueError(AROUND)
    return state

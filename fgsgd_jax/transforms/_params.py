"""The one sentence for the one mistake that every link on a manifold can be used with."""

from optax._src.base import NO_PARAMS_MSG  # Optax has no public name for its own sentence


def require_params(params, reason: str) -> None:
    """Raises Optax's message for missing params, with the reason why a link needs them."""
    if params is None:
        raise ValueError(f"{NO_PARAMS_MSG} Manifolds need them because {reason}.")

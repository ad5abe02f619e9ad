"""The one sentence for the one mistake that every link on a manifold can be used with."""

import optax


def require_params(params, reason: str) -> None:
    """Raises Optax's message for missing params, with the reason why a link needs them."""
    if params is None:
        raise ValueError(f"{optax.NO_PARAMS_MSG} Manifolds need them because {reason}.")

"""`Mixture`: points among which every lane is on the manifold that was dealt to it.

All manifolds answer for all lanes, and each lane keeps the answer of its own: for small points that
is cheaper than gathering lanes. The parts of a step are those of `Manifold`, for all at once.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fgsgd_jax.geometry import Manifold


class Mixture(NamedTuple):
    """Manifolds, and which lane is on which.

    Attributes:
        manifolds: The manifolds.
        manifold_ids: The position of every lane's manifold among them, int8 `(*lanes)`; None for a
            single manifold.
    """

    manifolds: tuple[Manifold, ...]
    manifold_ids: jax.Array | None

    def choose(self, answers: Sequence[jax.Array]) -> jax.Array:
        """What every lane's own manifold answered."""
        return _choose(self.manifold_ids, answers)

    def ask(self, verb: str, points: jax.Array) -> jax.Array:
        """The verb of every lane's own manifold."""
        answers = [
            getattr(manifold, verb)(*self._shown(position, points))
            for position, manifold in enumerate(self.manifolds)
        ]
        return self.choose(answers)

    def normal_factors(self, x: jax.Array, g: jax.Array) -> tuple:
        """The normal factors of all manifolds."""
        return self._shared(x, [one.normal_factor(x, g) for one in self.manifolds])

    def tangents(self, x: jax.Array, g: jax.Array, normals: tuple) -> tuple[jax.Array, ...]:
        """The tangent part of g for every manifold, of use in its own lanes only."""

        def tangent(position, manifold, normal):
            shown = self._shown(position, x, g) if normal is None else (x, g)
            return manifold.remove_normal(*shown, normal)

        return tuple(map(tangent, range(len(self.manifolds)), self.manifolds, normals))

    def squared_norm(self, tangents: tuple[jax.Array, ...], normals: tuple) -> jax.Array:
        """⟨v, v⟩ of every lane's own tangent, `(*lanes)`."""
        parts = zip(self.manifolds, tangents, normals, strict=True)
        return self.choose([one.squared_norm(v, normal) for one, v, normal in parts])

    def step_factors(self, x: jax.Array, tangents: tuple, t: jax.Array, normals: tuple) -> tuple:
        """The step factors of all manifolds."""
        parts = zip(self.manifolds, tangents, normals, strict=True)
        return self._shared(x, [one.step_factor(x, v, t, normal) for one, v, normal in parts])

    def rough_step_factors(self, squares: jax.Array, t: jax.Array, normals: tuple) -> Any:
        """The rough step factors, and whether rounding would grow.

        None where there are none, as for several manifolds.
        """
        rough = self.manifolds[0].rough_step_factor(squares, t, normals[0])
        if rough is None or len(self.manifolds) > 1:
            return None
        factor, grows = rough
        return (factor,), grows

    def decided(self, factors: tuple, still: jax.Array) -> tuple[tuple, jax.Array | None]:
        """What decides a step: factors, and the ids, with one more for lanes that stand still.

        A single manifold that has a factor at rest needs no manifold_ids.
        """
        rest = self.manifolds[0].factor_at_rest
        if len(self.manifolds) == 1 and rest is not None:
            return (jnp.where(still, rest, factors[0]),), None
        manifold_ids = 0 if self.manifold_ids is None else self.manifold_ids
        return factors, jnp.where(still, len(self.manifolds), manifold_ids).astype(jnp.int8)

    def displacement(
        self,
        x: jax.Array,
        tangents: tuple[jax.Array, ...],
        t: jax.Array,
        factors: tuple,
        movers: jax.Array | None,
        *,
        rough: bool = False,
    ) -> jax.Array:
        """R(x, t·v) − x, and 0 in lanes that stand still; rough where rounding may stay."""

        def moved(position, manifold, v, factor):
            shown = self._shown(position, x, v) if factor is None else (x, v)
            verb = manifold.rough_displacement if rough else manifold.displacement
            return verb(*shown, t, factor)

        count = len(self.manifolds)
        answers = map(moved, range(count), self.manifolds, tangents, factors)
        at_rest = () if movers is None else (jnp.zeros((), x.dtype),)
        return _choose(movers, [*answers, *at_rest])

    def _shown(self, position: int, x: jax.Array, *vectors: jax.Array):
        """What a manifold is shown: a harmless point and vector in the lanes of others.

        So that its care for extreme input is not spent on them.
        """
        if self.manifold_ids is None:
            return (x, *vectors)
        own = self.manifold_ids == position
        harmless = self.manifolds[position].harmless_point(x)
        return (jnp.where(own, x, harmless), *(jnp.where(own, v, 0) for v in vectors))

    def _shared(self, x: jax.Array, factors: list) -> tuple:
        """The factors of all manifolds; of the usual shapes, in one array with every lane's own."""
        usual = (x.shape[2:], x.shape[1:])
        shares = [isinstance(one, jax.Array) and one.shape in usual for one in factors]
        if sum(shares) < 2:
            return tuple(factors)
        manifold_ids = [position for position, one in enumerate(shares) if one]
        shared = _choose(self.manifold_ids, [factors[kind] for kind in manifold_ids], manifold_ids)
        return tuple(shared if one else own for one, own in zip(shares, factors, strict=True))


def is_slim(factor: Any, ndim: int) -> bool:
    """Whether a factor, of points of so many axes, is a few numbers per lane, as in a vector."""
    return factor is not None and all(part.ndim < ndim for part in jax.tree.leaves(factor))


def _choose(manifold_ids, answers: Sequence[jax.Array], positions: Sequence[int] | None = None):
    chosen = answers[0]
    positions = range(len(answers)) if positions is None else positions
    for position, answer in zip(positions[1:], answers[1:], strict=True):
        chosen = jnp.where(manifold_ids == position, answer, chosen)
    return chosen

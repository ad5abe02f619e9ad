"""The classical problems: their data, their losses, and their known optima."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
from sklearn.decomposition import FastICA

WHITE: Any = False  # samples are whitened already; scikit-learn's annotation lacks this value


@dataclasses.dataclass(frozen=True)
class Problem:
    """A problem on a Stiefel manifold.

    Attributes:
        data: The matrix that defines it.
        start: The point from which all methods start.
        loss: The loss of `(module, data, point)`, with arrays of the module, `jax.numpy` or torch.
        solve: The rival: returns its solution and its number of iterations.
        distance: The distance of a point from the optimum.
    """

    data: np.ndarray
    start: np.ndarray
    loss: Callable[..., Any]
    solve: Callable[[], tuple[np.ndarray, int]]
    distance: Callable[[np.ndarray], float]


def procrustes(rng: np.random.Generator) -> Problem:
    """M = X·S with S positive definite; the nearest matrix with orthonormal columns is X."""
    optimum, basis = orthonormal(rng, 30, 10), orthonormal(rng, 10, 10)
    matrix = optimum @ (basis * np.linspace(0.2, 1, 10)) @ basis.T
    return Problem(
        data=matrix,
        start=orthonormal(rng, 30, 10),
        loss=lambda xp, matrix, x: -xp.sum(matrix * x),
        solve=lambda: (scipy.linalg.polar(matrix)[0], 1),
        distance=lambda x: _norm(x - optimum),
    )


def principal_components(rng: np.random.Generator) -> Problem:
    """A covariance with known eigenvectors, and a gap of a tenth after the components wanted."""
    basis = orthonormal(rng, 50, 50)
    variances = np.concatenate([np.linspace(1, 0.6, 5), np.linspace(0.5, 0.01, 45)])
    covariance, wanted = (basis * variances) @ basis.T, basis[:, :5]
    return Problem(
        data=covariance,
        start=orthonormal(rng, 50, 5),
        loss=lambda xp, covariance, x: -xp.sum(x * (covariance @ x)) / 2,
        solve=lambda: (scipy.linalg.eigh(covariance, subset_by_index=[45, 49])[1], 1),
        distance=lambda x: _norm(x - wanted @ (wanted.T @ x)),
    )


def independent_components(rng: np.random.Generator) -> Problem:
    """Laplacian sources, mixed, and whitened, so that an orthogonal matrix unmixes them."""
    sources = rng.laplace(size=(1_000, 10))
    left, _, mixing = np.linalg.svd(sources - sources.mean(0), full_matrices=False)
    samples = np.sqrt(len(left)) * left
    start, optimum = orthonormal(rng, 10, 10), mixing
    # The optimum of this sample is near the mixing, and Newton's method, 50 times, finds it.
    for _ in range(50):
        y = np.tanh(samples @ optimum)
        optimum = samples.T @ y / len(y) - optimum * (1 - y**2).mean(0)
        optimum = scipy.linalg.polar(optimum)[0]

    def solve():
        found = FastICA(whiten=WHITE, w_init=start.T, tol=1e-13, max_iter=1000).fit(samples)
        return found.components_.T, found.n_iter_

    def distance(x):
        cosines = optimum.T @ x  # order and signs of the components are free
        nearest = np.abs(cosines).argmax(0)
        signs = np.sign(cosines[nearest, np.arange(10)])
        return _norm(x - optimum[:, nearest] * signs)

    return Problem(
        data=samples,
        start=start,
        loss=lambda xp, samples, x: xp.sum(xp.log(xp.cosh(samples @ x))) / len(samples),
        solve=solve,
        distance=distance,
    )


PROBLEMS: dict[str, Callable[[np.random.Generator], Problem]] = {
    "Procrustes": procrustes,
    "principal components": principal_components,
    "independent components": independent_components,
}


def orthonormal(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """A random matrix with orthonormal columns."""
    return np.linalg.qr(rng.standard_normal((rows, columns)))[0]


def _norm(differences: np.ndarray) -> float:
    return float(np.linalg.norm(differences) / np.sqrt(differences.shape[1]))

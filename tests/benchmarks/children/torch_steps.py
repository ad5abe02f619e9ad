"""Steps on products of spheres and Stiefel manifolds of 3×3 in geoopt, geotorch and pymanopt.

Each step is x ← R(x, −r·P(x, g)), as in this library, with the same number of components, in
float32. Packages that are not installed are listed as missing.
"""

import importlib
import importlib.metadata
import math

import numpy as np
from serving import serve

RATE = 1e-3
SIDE = 3


def prepare(components, threads):
    """The steps of all installed packages under `problem: label`, and the missing packages.

    Args:
        components: The number of components.
        threads: The number of threads of torch.
    """
    steps, missing, versions = {}, [], {}
    for package, make in (("geoopt", _geoopt), ("geotorch", _geotorch), ("pymanopt", _pymanopt)):
        try:
            importlib.import_module(package)
        except ImportError:
            missing.append(package)
            continue
        for name in {package, *(["torch"] if package != "pymanopt" else ["numpy"])}:
            versions[name] = importlib.metadata.version(name)
        steps.update(make(components, threads))
    return steps, {"missing": missing, "versions": versions}


def _start(components):
    """Unit vectors with 9 entries, orthonormal 3×3 matrices, and gradients for both."""
    numbers = np.random.default_rng(0)
    g = numbers.standard_normal((components, SIDE, SIDE)).astype(np.float32)
    few = numbers.standard_normal((min(components, 512), SIDE, SIDE))
    frames = np.resize(np.linalg.qr(few)[0], g.shape).astype(np.float32)
    return frames.reshape(components, -1) / math.sqrt(SIDE), frames, g


def _torch(threads):
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    return torch


def _geoopt(components, threads):
    torch, geoopt = _torch(threads), importlib.import_module("geoopt")
    units, frames, g = (torch.from_numpy(array) for array in _start(components))

    def optimizer_step(manifold, start, gradient):
        weight = geoopt.ManifoldParameter(start.clone(), manifold=manifold)
        weight.grad = gradient.clone()
        optimizer = geoopt.optim.RiemannianSGD([weight], lr=RATE)
        return optimizer.step

    def by_hand(manifold, start, gradient):
        x = start.clone()

        @torch.no_grad()
        def step():
            x.copy_(manifold.retr(x, -RATE * manifold.egrad2rgrad(x, gradient)))

        return step

    flat = g.reshape(components, -1)
    sphere = geoopt.Sphere()
    return {
        "sphere: geoopt RiemannianSGD": optimizer_step(sphere, units, flat),
        "sphere: geoopt, projection and retraction": by_hand(sphere, units, flat),
        "stiefel: geoopt RiemannianSGD, Euclidean (QR)": optimizer_step(
            geoopt.EuclideanStiefel(), frames, g
        ),
        "stiefel: geoopt RiemannianSGD, canonical (Cayley)": optimizer_step(
            geoopt.CanonicalStiefel(), frames, g
        ),
        "stiefel: geoopt, projection and QR retraction": by_hand(
            geoopt.EuclideanStiefel(), frames, g
        ),
    }


def _geotorch(components, threads):
    """A step computes the parametrized weight, differentiates it, and moves the parameters."""
    torch, geotorch = _torch(threads), importlib.import_module("geotorch")
    units, frames, g = (torch.from_numpy(array) for array in _start(components))

    def step_of(constrain, start, gradient):
        module = torch.nn.Module()
        module.weight = torch.nn.Parameter(start.clone())
        constrain(module)
        optimizer = torch.optim.SGD(module.parameters(), lr=RATE)

        def step():
            optimizer.zero_grad()
            (module.weight * gradient).sum().backward()
            optimizer.step()

        return step

    return {
        "sphere: geotorch.sphere": step_of(
            lambda module: geotorch.sphere(module, "weight"), units, g.reshape(components, -1)
        ),
        "stiefel: geotorch.orthogonal (exponential)": step_of(
            lambda module: geotorch.orthogonal(module, "weight", triv="expm"), frames, g
        ),
        "stiefel: geotorch.orthogonal (Cayley)": step_of(
            lambda module: geotorch.orthogonal(module, "weight", triv="cayley"), frames, g
        ),
    }


def _pymanopt(components, threads):
    """NumPy steps. BLAS reads the number of threads from the environment of the process."""
    del threads
    pymanopt = importlib.import_module("pymanopt")
    units, frames, g = _start(components)

    def step_of(manifold, start, gradient):
        carried = [start]

        def step():
            x = carried[0]
            v = manifold.projection(x, gradient)
            carried[0] = manifold.retraction(x, np.float32(-RATE) * v)

        return step

    # A product of spheres is an oblique manifold: its columns are the components.
    spheres = pymanopt.manifolds.Oblique(SIDE * SIDE, components)
    flat = np.ascontiguousarray(g.reshape(components, -1).T)
    steps = {
        "sphere: pymanopt Oblique": step_of(spheres, np.ascontiguousarray(units.T), flat),
    }
    for kind in ("qr", "polar"):
        stiefel = pymanopt.manifolds.Stiefel(SIDE, SIDE, k=components, retraction=kind)
        steps[f"stiefel: pymanopt Stiefel ({kind})"] = step_of(
            stiefel, frames if components > 1 else frames[0], g if components > 1 else g[0]
        )
    return steps


if __name__ == "__main__":
    serve(prepare)

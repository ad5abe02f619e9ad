"""Steps of PyTorch and geoopt on the 3×3 components of several weights, on the GPU if there is one.

The steps of a process run one after the other on the device; each takes several updates, waits for
the last, and counts as one of them.
"""

import importlib
import importlib.metadata
import math

import numpy as np
from serving import serve

RATE = 1e-3
MOMENTUM = 0.9
SIDE = 3


def prepare(sizes, threads):
    """The steps of torch, and those of geoopt if it is installed.

    Args:
        sizes: The number of components of every weight.
        threads: The number of threads of torch on the CPU.
    """
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    versions = {"torch": torch.__version__}
    steps = _optimizers(torch, device, sizes)
    try:
        geoopt = importlib.import_module("geoopt")
    except ImportError:
        return steps, {"missing": ["geoopt"], "versions": versions}
    versions["geoopt"] = importlib.metadata.version("geoopt")
    steps.update(_geoopt(torch, geoopt, device, sizes))
    return steps, {"missing": [], "versions": versions}


def _arrays(torch, device, sizes):
    """Orthonormal matrices and gradients of every weight."""
    numbers = np.random.default_rng(0)
    frames = np.linalg.qr(numbers.standard_normal((512, SIDE, SIDE)))[0]
    shapes = [(size, SIDE, SIDE) for size in sizes]
    points = [np.resize(frames, shape).astype(np.float32) for shape in shapes]
    gradients = [numbers.standard_normal(shape).astype(np.float32) * 0.01 for shape in shapes]
    return tuple(
        [torch.from_numpy(array).to(device) for array in arrays] for arrays in (points, gradients)
    )


def _waited(torch, device, step):
    def wait():
        step()
        if device == "cuda":
            torch.cuda.synchronize()

    return wait


def _step_of(torch, device, weights, gradients, make):
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient.reshape(weight.shape).clone()
    return _waited(torch, device, make(weights).step)


def _optimizers(torch, device, sizes):
    points, gradients = _arrays(torch, device, sizes)

    def step(make):
        weights = [torch.nn.Parameter(point.clone()) for point in points]
        return _step_of(torch, device, weights, gradients, make)

    return {
        f"torch.optim.SGD, momentum {MOMENTUM}": step(
            lambda weights: torch.optim.SGD(weights, lr=RATE, momentum=MOMENTUM)
        ),
        "torch.optim.AdamW": step(lambda weights: torch.optim.AdamW(weights, lr=RATE)),
    }


def _geoopt(torch, geoopt, device, sizes):
    points, gradients = _arrays(torch, device, sizes)
    units = [point.reshape(len(point), -1) / math.sqrt(SIDE) for point in points]

    def step(manifold, start, make):
        weights = [geoopt.ManifoldParameter(one.clone(), manifold=manifold) for one in start]
        return _step_of(torch, device, weights, gradients, make)

    def sgd(weights, momentum=0.0):
        return geoopt.optim.RiemannianSGD(weights, lr=RATE, momentum=momentum)

    def adam(weights):
        return geoopt.optim.RiemannianAdam(weights, lr=RATE)

    sphere, stiefel = geoopt.Sphere(), geoopt.CanonicalStiefel()
    qr = geoopt.EuclideanStiefel()
    return {
        "sphere: geoopt RiemannianSGD": step(sphere, units, sgd),
        f"sphere: geoopt RiemannianSGD, momentum {MOMENTUM}": step(
            sphere, units, lambda weights: sgd(weights, MOMENTUM)
        ),
        "sphere: geoopt RiemannianAdam": step(sphere, units, adam),
        "stiefel: geoopt RiemannianSGD, Euclidean (QR)": step(qr, points, sgd),
        "stiefel: geoopt RiemannianSGD, canonical (Cayley)": step(stiefel, points, sgd),
        "stiefel: geoopt RiemannianAdam, canonical (Cayley)": step(stiefel, points, adam),
    }


if __name__ == "__main__":
    serve(prepare)

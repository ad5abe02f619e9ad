"""The shapes of all weights of some published networks.

Convolutions are (rows, columns, inputs, outputs), dense kernels (inputs, outputs). `width`
multiplies all numbers of channels, but not the number of classes.

References:
    He et al., *Deep residual learning for image recognition*, 2016 (ResNet-18, ResNet-50);
    Zagoruyko & Komodakis, *Wide residual networks*, 2016 (WRN-28-10, for CIFAR-10); Dosovitskiy et
    al., *An image is worth 16×16 words*, 2021, and Touvron et al., *DeiT*, 2021 (ViT-S/16).
"""

from collections.abc import Callable, Iterator

Shapes = dict[str, tuple[int, ...]]
_Named = Iterator[tuple[str, tuple[int, ...]]]


def _convolution(name: str, side: int, inputs: int, outputs: int) -> _Named:
    """A convolution without bias, and the normalization after it."""
    yield f"{name}/kernel", (side, side, inputs, outputs)
    yield from _normalization(f"{name}/norm", outputs)


def _normalization(name: str, features: int) -> _Named:
    yield f"{name}/scale", (features,)
    yield f"{name}/bias", (features,)


def _dense(name: str, inputs: int, outputs: int) -> _Named:
    yield f"{name}/kernel", (inputs, outputs)
    yield f"{name}/bias", (outputs,)


def _scaled(channels: int, width: float) -> int:
    return max(1, round(width * channels))


def _resnet18(width: float) -> _Named:
    first = _scaled(64, width)
    yield from _convolution("stem", 7, 3, first)
    before = first
    for stage, channels in enumerate((64, 128, 256, 512), start=1):
        own = _scaled(channels, width)
        for block in (1, 2):
            name = f"stage{stage}/block{block}"
            yield from _convolution(f"{name}/conv1", 3, before, own)
            yield from _convolution(f"{name}/conv2", 3, own, own)
            if stage > 1 and block == 1:
                yield from _convolution(f"{name}/shortcut", 1, before, own)
            before = own
    yield from _dense("head", before, 1000)


def _resnet50(width: float) -> _Named:
    before = _scaled(64, width)
    yield from _convolution("stem", 7, 3, before)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner, outer = (_scaled(channels * 2**stage, width) for channels in (64, 256))
        for block in range(1, blocks + 1):
            name = f"stage{stage + 1}/block{block}"
            yield from _convolution(f"{name}/conv1", 1, before, inner)
            yield from _convolution(f"{name}/conv2", 3, inner, inner)
            yield from _convolution(f"{name}/conv3", 1, inner, outer)
            if block == 1:
                yield from _convolution(f"{name}/shortcut", 1, before, outer)
            before = outer
    yield from _dense("head", before, 1000)


def _wrn_28_10(width: float) -> _Named:
    # Normalization precedes each convolution here, so it has as many features as the input.
    before = _scaled(16, width)
    yield "stem/kernel", (3, 3, 3, before)
    for stage, channels in enumerate((160, 320, 640), start=1):
        own = _scaled(channels, width)
        for block in range(1, 5):
            name = f"stage{stage}/block{block}"
            yield from _normalization(f"{name}/norm1", before)
            yield f"{name}/conv1/kernel", (3, 3, before, own)
            yield from _normalization(f"{name}/norm2", own)
            yield f"{name}/conv2/kernel", (3, 3, own, own)
            if block == 1:
                yield f"{name}/shortcut/kernel", (1, 1, before, own)
            before = own
    yield from _normalization("norm", before)
    yield from _dense("head", before, 10)


def _vit_s(width: float) -> _Named:
    features, patches = _scaled(384, width), 14 * 14
    yield "patches/kernel", (16, 16, 3, features)
    yield "patches/bias", (features,)
    yield "class_token", (1, 1, features)
    yield "positions", (1, patches + 1, features)
    for block in range(1, 13):
        name = f"block{block}"
        yield from _normalization(f"{name}/norm1", features)
        for part in ("query", "key", "value", "out"):
            yield from _dense(f"{name}/{part}", features, features)
        yield from _normalization(f"{name}/norm2", features)
        yield from _dense(f"{name}/up", features, 4 * features)
        yield from _dense(f"{name}/down", 4 * features, features)
    yield from _normalization("norm", features)
    yield from _dense("head", features, 1000)


def _only_3x3(network: Callable[[float], _Named]) -> Callable[[float], _Named]:
    def kernels(width: float) -> _Named:
        return (item for item in network(width) if item[1][:2] == (3, 3))

    return kernels


_NETWORKS: dict[str, Callable[[float], _Named]] = {
    "resnet18-3x3": _only_3x3(_resnet18),
    "resnet18": _resnet18,
    "resnet50": _resnet50,
    "vit-s": _vit_s,
    "wrn-28-10": _wrn_28_10,
}

NETWORKS = tuple(_NETWORKS)


def shapes_of(network: str, width: float = 1.0) -> Shapes:
    """The shapes of the weights of a network by name; only of 3×3 kernels for `<network>-3x3`."""
    return dict(_NETWORKS[network](width))


def is_kernel(name: str) -> bool:
    """Whether a weight goes on manifolds: every kernel except the one of the last layer."""
    *modules, last = name.split("/")
    return last == "kernel" and modules[:1] != ["head"]

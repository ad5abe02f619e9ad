"""Modules: which layers stand together, and which modules are alike up to numbers."""

from collections import Counter
from collections.abc import Callable, Iterable

from fgsgd_jax.spec.networks._blocks import Block, layer_of
from fgsgd_jax.spec.networks._names import keys_of, module_and_name, remembered
from fgsgd_jax.spec.networks._outputs import without_numbers


def at_the_same_place(path: str, paths: Iterable[str]) -> frozenset[str]:
    """The paths of the same layer in modules alike up to numbers, as the members of an ensemble.

    Example:
        >>> paths = ["m_0/Dense_0/kernel", "m_0/Dense_1/kernel", "m_1/Dense_1/kernel"]
        >>> sorted(at_the_same_place("m_1/Dense_1/kernel", paths))
        ['m_0/Dense_1/kernel', 'm_1/Dense_1/kernel']
    """
    return frozenset(other for other in paths if _place(other) == _place(path))


@remembered
def _place(path: str) -> tuple[Block, Block]:
    """The module of a layer without numbers, and the keys of the layer in it."""
    return module_of(path), keys_of(path)[len(module_and_name(path)[0]) :]


@remembered
def module_of(path: str) -> Block:
    """The module of a layer without numbers, as those of blocks that follow one another.

    A list of layers is a module.

    Example:
        >>> module_of("Block_1/mlp/Dense_0/kernel"), module_of("critic/0/kernel")
        (('Block', 'mlp'), ('critic',))
    """
    module, _ = module_and_name(path)
    listed = layer_of(path)[len(module) : -1]
    return tuple(without_numbers(key) for key in (*module, *listed) if not key.isdigit())


def are_nested(path: str, other: str) -> bool:
    """Whether the module of one layer stands in that of another, or is the same."""
    short, long = sorted((module_of(path), module_of(other)), key=len)
    return long[: len(short)] == short


def layer_among(dense: Iterable[str]) -> Callable[[str], Block]:
    """The layer of a leaf, or itself where several dense weights have no layers of their own."""
    matrices = Counter(layer_of(path) for path in dense)
    return lambda path: layer_of(path) if matrices[layer_of(path)] < 2 else (path,)

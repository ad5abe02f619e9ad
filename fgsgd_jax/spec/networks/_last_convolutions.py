"""The last convolutions of a network, as of a U-Net, which no dense layer follows."""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping

from fgsgd_jax._text import natural_order, texts_and_numbers
from fgsgd_jax.spec._layouts import DEFAULT, letters_for
from fgsgd_jax.spec.networks._blocks import block_of, layer_of, normalizations
from fgsgd_jax.spec.networks._dense import is_dense
from fgsgd_jax.spec.networks._heads import Leaves, names_a_head
from fgsgd_jax.spec.networks._kinds import is_normalization, is_of_activation, kind_of
from fgsgd_jax.spec.networks._names import keys_of, module_and_name, words_of

Shape = tuple[int, ...]
Paths = frozenset[str]

IMAGE_CHANNELS = 4  # at most; layers inside of a network have more

_HEADS = {"head", "classifier", "logits"}
_LAST = {"out", "outc", "outconv", "output", "final", "last"}


def last_convolutions(
    leaves: Leaves, convolutions: Iterable[str], layouts: Mapping[str, str | None]
) -> tuple[Paths, Paths]:
    """The convolutions that give the output of a network, and any that may.

    They read another convolution, and no layer reads them (none has as many inputs as they have
    outputs) or only one that may be the first of the network, as in a U-Net that returns an image.
    They give the output if they are called so; in a network without a dense head also if they are
    unread, stand as near to the top of the tree as any layer, or in a module called head, and are
    the last of those that differ from them in numbers only; or if only the first of these could
    read them. All others may, unless a layer reads
    them in another arrangement and a head is found. So may the last in a block that has fewer
    normalization layers than convolutions, if none of these is found.

    Args:
        leaves: The pairs (path, leaf), without stacked layers.
        convolutions: The paths of the convolutions.
        layouts: By path, the layout of one layer, or None.

    Example:
        >>> import jax.numpy as jnp
        >>> leaves = [(f"Conv_{i}/kernel", jnp.ones((3, 3, 8, 8))) for i in range(3)]
        >>> leaves.append(("Conv_3/kernel", jnp.ones((1, 1, 8, 5))))
        >>> last_convolutions(leaves, [path for path, _ in leaves], {})
        (frozenset({'Conv_3/kernel'}), frozenset())
    """
    network = _Network.of(leaves, convolutions, layouts)
    inner = {path for path in network.convolutions if network.reads_a_convolution(path)}
    unread = {path for path in inner if not network.is_read(path)}
    circular = {path for path in inner if network.may_be_read_by_the_first_only(path)}
    heads = set(filter(_is_called_last, unread | circular))
    if names_a_head(leaves) or network.has_dense_head():
        images = {path for path in circular if network.outputs(path) <= IMAGE_CHANNELS}
        return frozenset(heads), frozenset((unread | (images & network.last())) - heads)
    rearranged = {path for path in unread if network.may_be_rearranged(path)}
    heads |= (unread - rearranged) & network.last() & network.outer()
    heads |= {path for path in circular & network.outer() if network.closes_a_list(path)}
    heads |= {twin for path in heads for twin in network.twins(path) & unread}
    maybe = (unread - rearranged) | (circular & network.outer())
    if not heads:
        maybe |= rearranged | network.unfollowed()
    return frozenset(heads), frozenset(maybe - heads)


@dataclasses.dataclass(frozen=True)
class _Network:
    """The layers of a network: shapes by path, and (input, output) channels where known.

    Matrices are dense layers, under that name or another, such as heads.
    """

    shapes: Mapping[str, Shape]
    convolutions: Mapping[str, tuple[int, int]]
    dense: Mapping[str, tuple[int, int]]
    matrices: Mapping[str, tuple[int, int]]

    @classmethod
    def of(
        cls, leaves: Leaves, convolutions: Iterable[str], layouts: Mapping[str, str | None]
    ) -> "_Network":
        shapes = {path: tuple(leaf.shape) for path, leaf in leaves}
        dense = [path for path in shapes if len(shapes[path]) == 2 and is_dense(path, shapes)]
        matrices = [
            path
            for path, its in shapes.items()
            if len(its) == 2 and kind_of(path) not in ("embedding", "token")
        ]

        def channels(paths):
            return {path: _channels(shapes[path], layouts.get(path)) for path in paths}

        return cls(shapes, channels(convolutions), channels(dense), channels(matrices))

    def depth(self, path: str) -> int:
        """How many blocks a layer stands in."""
        return len(block_of(layer_of(path)))

    @functools.cached_property
    def top(self) -> int:
        """The least depth of a layer."""
        return min(map(self.depth, (*self.convolutions, *self.dense)), default=0)

    def outer(self) -> set[str]:
        """The convolutions as near to the top of the tree as any layer, or in a head."""
        return {
            path for path in self.convolutions if self.depth(path) == self.top or _is_in_head(path)
        }

    @functools.cached_property
    def numbered(self) -> list[list[str]]:
        """The convolutions, those in one list that differ in the numbers of their paths only."""
        alike: dict[tuple[str, ...], list[str]] = {}
        for path in sorted(self.convolutions, key=natural_order):
            alike.setdefault(tuple(texts_and_numbers(path)[::2]), []).append(path)
        return list(alike.values())

    def last(self) -> set[str]:
        """The last of all convolutions that differ in the numbers of their paths only."""
        return {paths[-1] for paths in self.numbered}

    def has_dense_head(self) -> bool:
        """Whether a dense layer is at the top of the tree, or read by no other."""
        return any(self.depth(path) == self.top or not self.is_read(path) for path in self.dense)

    def others(self, path: str) -> list[tuple[int, int]]:
        """The channels of all other convolutions."""
        return [its for other, its in self.convolutions.items() if other != path]

    def outputs(self, path: str) -> int:
        """The output channels of a layer."""
        return (self.convolutions.get(path) or self.dense[path])[1]

    def reads_a_convolution(self, path: str) -> bool:
        """Whether another convolution has as many outputs as this one has inputs."""
        return any(self.convolutions[path][0] == its[1] for its in self.others(path))

    def is_read_besides_convolutions(self, path: str) -> bool:
        """Whether a normalization, attention or (after flattening) dense layer may read it."""
        outputs = self.outputs(path)
        if outputs == 0 or outputs in self.norms | self.attention:  # 0: no layout says how many
            return True
        # Flattened sizes are multiples of small numbers by chance.
        if _is_called_last(path) or outputs <= IMAGE_CHANNELS:
            return any(its[0] == outputs for other, its in self.matrices.items() if other != path)
        return any(its[0] % outputs == 0 for other, its in self.matrices.items() if other != path)

    def is_read(self, path: str) -> bool:
        """Whether a layer has as many inputs as this one has outputs; convolutions have groups."""
        outputs = self.outputs(path)
        return self.is_read_besides_convolutions(path) or any(
            outputs in (its[0], its[1] if its[0] and outputs % its[0] == 0 else None)
            for its in self.others(path)
        )

    def may_be_rearranged(self, path: str) -> bool:
        """Whether another may read its outputs after a pixel shuffle, or beside those of a third.

        A pixel shuffle makes r·r pixels of one, as upsampling does; a U-Net concatenates.
        """
        outputs = self.outputs(path)
        if outputs <= IMAGE_CHANNELS:
            return False
        shuffled = {outputs // r**2 for r in (2, 3, 4) if outputs % r**2 == 0}
        if math.prod(self.shapes[path]) == math.prod(self.convolutions[path]):
            shuffled = set()  # 1×1, as the last layer of a classifier is
        inputs = {its[0] for its in self.others(path) if its[0] > IMAGE_CHANNELS}
        beside = {size - outputs for size in inputs} & {its[1] for its in self.others(path)}
        return bool(inputs & shuffled or beside)

    def may_be_read_by_the_first_only(self, path: str) -> bool:
        """Whether it alone has as many outputs as a convolution, maybe the first, has inputs."""
        outputs = self.outputs(path)
        readers = [
            reader
            for reader in self._readers(path)
            if not self.reads_images or outputs <= IMAGE_CHANNELS
        ]
        read = readers and not any(self._stand_in_order(path, reader) for reader in readers)
        dense = self.dense.values() if outputs > IMAGE_CHANNELS else ()  # which make no images
        made = any(outputs == its[1] for its in (*self.others(path), *dense))
        return bool(read) and not made and not self.is_read_besides_convolutions(path)

    @functools.cached_property
    def reads_images(self) -> bool:
        """Whether a convolution has as many inputs as images have channels, and so is the first."""
        return any(0 < its[0] <= IMAGE_CHANNELS for its in self.convolutions.values())

    def twins(self, path: str) -> set[str]:
        """The convolutions of its list with as many outputs, such as heads of several scales."""
        return {
            other
            for paths in self.numbered
            if path in paths
            for other in paths
            if self.outputs(other) == self.outputs(path)
        }

    def closes_a_list(self, path: str) -> bool:
        """Whether it ends a list, and only layers before it in this list could read it."""
        before = all(self._stand_in_order(reader, path) for reader in self._readers(path))
        return before and path in self.last()

    def _readers(self, path: str) -> list[str]:
        """The other convolutions with as many inputs as this one has outputs."""
        outputs = self.outputs(path)
        return [
            other for other, its in self.convolutions.items() if other != path and its[0] == outputs
        ]

    def _stand_in_order(self, first: str, second: str) -> bool:
        """Whether two convolutions differ in the numbers of their paths only, in this order."""
        alike = texts_and_numbers(first)[::2] == texts_and_numbers(second)[::2]
        return alike and natural_order(first) < natural_order(second)

    @functools.cached_property
    def norms(self) -> set[int]:
        """The sizes of normalization layers, and of activations with weights of their own."""
        return {
            its[-1]
            for path, its in self.shapes.items()
            if (its and is_normalization(path, its)) or (len(its) == 1 and is_of_activation(path))
        } - {1}  # one slope for all channels

    @functools.cached_property
    def attention(self) -> set[int]:
        """The sizes of all axes in attention layers."""
        return {
            size
            for path, its in self.shapes.items()
            if len(its) > 1 and kind_of(path) in ("query", "attention") and path not in self.dense
            for size in its
        }

    def unfollowed(self) -> set[str]:
        """The last of several outer convolutions, in blocks with fewer normalization layers."""
        ends = {paths[-1] for paths in self.numbered if len(paths) > 1} & self.outer()
        available = normalizations(self.shapes.items())
        own = Counter(block_of(layer_of(path)) for path in self.convolutions)
        blocks = {path: block_of(layer_of(path)) for path in ends}
        return {
            path
            for path, block in blocks.items()
            if self.outputs(path) not in self.attention and available[block] < own[block]
        }


def _channels(shape: Shape, layout: str | None) -> tuple[int, int]:
    """The numbers of input and output channels of a weight; (0, 0) if the layout does not say."""
    letters = letters_for(layout or DEFAULT, len(shape))
    return (shape[letters.index("I")], shape[letters.index("O")]) if letters else (0, 0)


def _is_in_head(path: str) -> bool:
    return any(_HEADS & set(words_of(key)) for key in keys_of(path))


def _is_called_last(path: str) -> bool:
    """Whether a convolution has the name of an output, or is called `conv` in a module of one."""
    module, name = module_and_name(path)
    words, around = set(words_of(name)), set(words_of("".join(module[-1:])))
    return bool(_LAST & words or (words <= {"conv"} and around and around <= _LAST | {"conv"}))

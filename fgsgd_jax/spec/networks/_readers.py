"""Which dense layers may read the output of another, by sizes and by the order of their numbers.

A dense layer reads what has as many features as it has inputs. Sizes agree by chance as well, so
paths have to agree with them: a layer is read by none before it in its own list, as `Dense_0` is
before `Dense_2`, and by none that reads the input of the network.
"""

import dataclasses
import functools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from fgsgd_jax._text import natural_order
from fgsgd_jax.spec._layouts import DEFAULT, letters_for
from fgsgd_jax.spec.networks._attention import beside
from fgsgd_jax.spec.networks._blocks import Block
from fgsgd_jax.spec.networks._dense import is_dense
from fgsgd_jax.spec.networks._kinds import is_normalization, kind_of
from fgsgd_jax.spec.networks._modules import are_nested, at_the_same_place, module_of
from fgsgd_jax.spec.networks._outputs import without_numbers

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class DenseLayers:
    """The dense layers of a network: inputs and outputs by path, and the sizes that others read.

    Attributes:
        inputs: By path, the number of inputs.
        outputs: By path, the number of outputs.
        others: The sizes of the axes of other layers, such as normalizations and convolutions.
        named: The paths of outputs by their names, which no layer is taken to read.
        ordered: Whether numbers are an order: not those of `w1`, `w2`, `w3` in a transformer.
    """

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    others: frozenset[int]
    named: frozenset[str]
    ordered: bool

    @classmethod
    def of(
        cls,
        leaves: Iterable[tuple[str, Any]],
        layout: str | None,
        named: Iterable[str],
        *,
        ordered: bool,
    ) -> "DenseLayers":
        """The dense layers of a tree; none if there are fewer than two, or no axes I and O."""
        shapes = {path: tuple(leaf.shape) for path, leaf in leaves}
        letters = letters_for(layout or DEFAULT, 2)
        dense = [
            path
            for path, its in shapes.items()
            if len(its) == 2
            and (is_dense(path, shapes) if ordered else kind_of(path, 2) in ("dense", ""))
        ]
        if len(dense) < 2 or letters is None:
            return cls({}, {}, frozenset(), frozenset(named), ordered)
        i, o = letters.index("I"), letters.index("O")
        others = {
            size
            for path, its in shapes.items()
            if path not in dense and _reads_features(path, its)
            for size in its
        }
        return cls(
            {path: shapes[path][i] for path in dense},
            {path: shapes[path][o] for path in dense},
            frozenset(others),
            frozenset(named),
            ordered,
        )

    def unread(self) -> frozenset[str]:
        """The paths of layers whose output no other can read."""
        return frozenset(path for path in self.outputs if not self.is_read(path))

    def is_read(self, path: str) -> bool:
        """Whether another layer reads the output of a layer, or half of it, as behind a gate."""
        size = self.outputs[path]
        gated = size % 2 == 0 and size > 4 and bool(self.readers(path, size // 2))
        return size in self.others or gated or bool(self.readers(path))

    def readers(self, path: str, size: int | None = None) -> set[str]:
        """The layers that may read the output of a layer, or as many of its features as given."""
        features = self.outputs[path] if size is None else size
        return {
            other
            for other in self._with_inputs[features]
            if other != path
            and not self._is_before(other, path)
            and not self._reads_the_input(other, path)
        }

    def in_blocks(self) -> frozenset[str]:
        """The paths of layers that blocks alike repeat, of which none is the output of a network.

        Blocks alike are modules that differ in numbers only. Where no layer at the same place of
        any of them is read, they may as well be networks of an ensemble: then a layer counts if
        numbers are no order, as in a transformer, unless it ends a numbered list of its block.
        """
        alike = {path: at_the_same_place(path, self.outputs) - {path} for path in self.outputs}
        return frozenset(
            path
            for path, others in alike.items()
            if any(
                self._sizes(other) == self._sizes(path)
                and (self.is_read(other) or not (self.ordered or self._ends_a_list(path)))
                for other in others
            )
        )

    def at_the_same_place(self, path: str) -> frozenset[str]:
        """The layers of its sizes at its place in modules alike, if it is not alone in its module.

        Modules of one layer each are a list, in which each may read the one before.
        """
        if self._layers_beside(path) == {path}:
            return frozenset()
        return frozenset(
            other
            for other in at_the_same_place(path, self.outputs)
            if path in self.outputs and self._sizes(other) == self._sizes(path)
        )

    def before(self, outputs: Iterable[str]) -> frozenset[str]:
        """Those of some outputs by name that stand in a list, and that another of them reads.

        As `policy/2` before `action`, and `decoder/linear1` before `decoder/out`.
        """
        known = [path for path in outputs if path in self.inputs]
        return frozenset(
            path
            for path in known
            if path != without_numbers(path)
            for other in known
            if self.inputs[other] == self.outputs[path]
            and without_numbers(other) != without_numbers(path)
        )

    def parallel(self) -> frozenset[str]:
        """The last two layers of a list of the same sizes, of which neither can read the other.

        They may be a mean and a deviation.
        """
        pairs = set()
        for path in filter(self._ends_a_list, self.outputs):
            before, _ = self._list_of(path)[-2:]
            sizes = self._sizes(path)
            if sizes[0] != sizes[1] and sizes == self._sizes(before):
                pairs |= {path, before}
        return frozenset(pairs)

    def circular(self) -> frozenset[str]:
        """The outputs of two modules of which each reads the other, as an encoder and a decoder.

        One of the two gives the output of the network, and nothing says which. A module of one
        layer, such as a head, does not count.
        """
        whole = dataclasses.replace(self, named=frozenset())  # a latent mean is read
        links: dict[str, set[Block]] = {}
        for path in self.outputs:
            modules = {module_of(reader) for reader in whole.readers(path)}
            alone = any(self._layers_in[module] < 2 for module in (module_of(path), *modules))
            if not (alone or module_of(path) in modules or self.outputs[path] in self.others):
                links[path] = modules
        pairs = {(module_of(path), module) for path, modules in links.items() for module in modules}
        return frozenset(
            path
            for path, modules in links.items()
            if any((module, module_of(path)) in pairs for module in modules)
        )

    def _layers_beside(self, path: str) -> set[str]:
        """The layers of the module of a layer, itself included."""
        return {path, *beside(path, self.outputs)}

    def _list_of(self, path: str) -> list[str]:
        """The layers of the module of a layer that differ from it in numbers only, in order."""
        name = without_numbers(path)
        alike = (other for other in self._layers_beside(path) if without_numbers(other) == name)
        return sorted(alike, key=natural_order)

    def _ends_a_list(self, path: str) -> bool:
        """Whether a layer is the last of several in its list."""
        alike = self._list_of(path)
        return len(alike) > 1 and path == alike[-1]

    def _sizes(self, path: str) -> tuple[int, int]:
        """The numbers of inputs and outputs of a layer."""
        return self.inputs[path], self.outputs[path]

    def _is_before(self, other: str, path: str) -> bool:
        """Whether a layer stands before another in one list."""
        return self._in_one_list(other, path) and natural_order(other) < natural_order(path)

    def _in_one_list(self, other: str, path: str) -> bool:
        """Whether two layers differ in numbers only."""
        return self.ordered and without_numbers(other) == without_numbers(path)

    def _reads_the_input(self, path: str, made_by: str) -> bool:
        """Whether a layer may read the input of the network instead of what another makes.

        The input is as long as what the first layer of a list reads that nothing but a later one of
        the list makes. A layer of another module of several reads it; one of the same list may, if
        it has the shape of the first layer, and so may begin a network of its own.
        """
        size, module = self.inputs[path], module_of(path)
        first = self._first_layers.get(size, set())
        if module != module_of(made_by):
            return bool(first) and self._layers_in[module] > 1
        alike = any(
            self._in_one_list(path, other) and self.outputs[path] == self.outputs[other]
            for other in first - {path}
        )
        return alike and self._makers[size] == [made_by] and self.inputs[made_by] != size

    @functools.cached_property
    def _with_inputs(self) -> Mapping[int, list[str]]:
        """By size, the layers that have so many inputs."""
        return _by_size(self.inputs)

    @functools.cached_property
    def _makers(self) -> Mapping[int, list[str]]:
        """By size, the layers that have so many outputs."""
        return _by_size(self.outputs)

    @functools.cached_property
    def _layers_in(self) -> Counter[Block]:
        """The number of dense layers in each module."""
        return Counter(map(module_of, self.inputs))

    @functools.cached_property
    def _first_layers(self) -> dict[int, set[str]]:
        """By size, the layers that read an input of the network for certain."""
        found: dict[int, set[str]] = {}
        for path, size in self.inputs.items():
            gates = [gate for gate in self._makers[2 * size] if are_nested(gate, path)]
            if all(
                maker in self.named
                or (self._in_one_list(maker, path) and not self._is_before(maker, path))
                for maker in (*self._makers[size], *gates)
            ):
                found.setdefault(size, set()).add(path)
        return found


def _by_size(sizes: Mapping[str, int]) -> Mapping[int, list[str]]:
    """The paths of each size; none for sizes that no path has."""
    found: dict[int, list[str]] = defaultdict(list)
    for path, size in sizes.items():
        found[size].append(path)
    return found


def _reads_features(path: str, shape: Shape) -> bool:
    """Whether a leaf belongs to a layer that reads features; biases and embeddings do not."""
    if kind_of(path) in ("embedding", "token", "bias"):
        return False
    return len(shape) > 1 or is_normalization(path, shape)

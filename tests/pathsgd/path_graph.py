"""Networks as explicit graphs, and their paths one by one: the reference of the path tests.

Nothing here knows of the library. A network is a list of edges (from, to, number, name of the
weight or None); nodes are numbers, and every path from an input or a bias to an output is walked.
"""

import itertools
from collections import defaultdict

import numpy as np


class Graph:
    """A network that is built layer by layer; layers are arrays of nodes."""

    def __init__(self, input_shape):
        self.edges, self.count, self.starts = [], 0, []
        self.inputs = self.nodes(input_shape)
        self.starts += list(self.inputs.ravel())

    def nodes(self, shape):
        new = self.count + np.arange(int(np.prod(shape))).reshape(shape)
        self.count += new.size
        return new

    def edge(self, start, end, number, name=None):
        self.edges.append((int(start), int(end), float(number), name))

    def bias(self, layer, values, name):
        """A bias of the last axis: a path of its own into every unit."""
        for index in np.ndindex(layer.shape):
            (start,) = self.nodes((1,))
            self.starts.append(int(start))
            self.edge(start, layer[index], values[index[-1]], (name, (index[-1],)))

    def dense(self, layer, weights, name):
        after = self.nodes((weights.shape[1],))
        for i, j in np.ndindex(weights.shape):
            self.edge(layer[i], after[j], weights[i, j], (name, (i, j)))
        return after

    def conv(self, layer, kernel, name, stride=1, padding=0, groups=1):
        rows, columns, inputs, outputs = kernel.shape
        height, width, _ = layer.shape
        high = (height + 2 * padding - rows) // stride + 1
        wide = (width + 2 * padding - columns) // stride + 1
        after = self.nodes((high, wide, outputs))
        for y, x, o in np.ndindex(after.shape):
            for a, b, c in itertools.product(range(rows), range(columns), range(inputs)):
                source = y * stride + a - padding, x * stride + b - padding
                if 0 <= source[0] < height and 0 <= source[1] < width:
                    channel = o // (outputs // groups) * inputs + c
                    weight = kernel[a, b, c, o]
                    self.edge(
                        layer[(*source, channel)], after[y, x, o], weight, (name, (a, b, c, o))
                    )
        return after

    def pool(self, layer, size, number):
        """Windows of size × size; the same number on all of their edges."""
        height, width, channels = layer.shape
        after = self.nodes((height // size, width // size, channels))
        for y, x, c in np.ndindex(after.shape):
            for a, b in itertools.product(range(size), repeat=2):
                self.edge(layer[y * size + a, x * size + b, c], after[y, x, c], number)
        return after

    def join(self, *layers):
        """The sum of layers, as of a skip connection."""
        after = self.nodes(layers[0].shape)
        for layer in layers:
            for index in np.ndindex(layer.shape):
                self.edge(layer[index], after[index], 1.0)
        return after

    def paths(self, outputs):
        """Every path to an output, as its list of edges."""
        leaving = defaultdict(list)
        for edge in self.edges:
            leaving[edge[0]].append(edge)
        ends = set(map(int, outputs.ravel()))

        def walk(node, path):
            if node in ends:
                yield list(path)
            for edge in leaving[node]:
                yield from walk(edge[1], [*path, edge])

        for start in self.starts:
            yield from walk(int(start), [])


def enumerate_norm(paths, p):
    """(Σ_paths ∏ |w|^p)^{1/p}."""
    return sum(np.prod([abs(number) ** p for _, _, number, _ in path]) for path in paths) ** (1 / p)


def enumerate_scales(paths, p, shapes, count_pairs=False):
    """κ of every weight, by name; with `count_pairs`, pairs of its edges on a path as well."""
    sums = {name: np.zeros(shape) for name, shape in shapes.items()}
    for path in paths:
        sizes = np.array([abs(number) ** p for _, _, number, _ in path])
        for place, (_, _, number, weight) in enumerate(path):
            if weight is None:
                continue
            name, index = weight
            sums[name][index] += np.prod(np.delete(sizes, place))
            if count_pairs:
                for other, (_, _, _, again) in enumerate(path):
                    if other != place and again == weight:
                        rest = np.prod(np.delete(sizes, [place, other]))
                        sums[name][index] += number**2 * rest
    return {name: total ** (2 / p) for name, total in sums.items()}

"""Why leaves are Euclidean: the reasons that other code asks for, and their text."""

import enum


class Reason(enum.StrEnum):
    """A reason; its value is its text in the table of a spec.

    All other reasons name a dtype, a kind of layer or a shape, and are plain text.
    """

    RULE = "a rule says so"
    NO_DEFAULT = "default=None"
    FEW_AXES = "fewer than two axes"
    EMPTY = "no entries"
    ONE_LONG_AXIS = "a vector by its shape"
    GATES_OR_HEADS = "3 axes, which may count gates or heads: name them in a rule"
    GATES_BEFORE = "3 axes, of which the second or the third counts the inputs: name them in a rule"
    STACKED_VECTORS = (
        "2 axes, of which the first may stack layers, as in leaves beside it: give a layout, or "
        "name them in a rule"
    )
    LOW_RANK = "a factor of a low-rank update, which may start at zero: give a rule"
    NO_ATTENTION = "called as queries, keys or values are, but not in attention: give a rule"
    IN_ATTENTION = "in attention, but no query, key, value or output by its name: give a rule"
    HEADS_ELSEWHERE = "3 axes, of which another may count the heads: name them in a rule"
    BARE_PROJECTION = "a projection of its own, perhaps the output of a tower: give a rule"
    LEARNED_QUERIES = "perhaps learned queries, as no keys like it stand beside it: give a rule"
    OWN_PARAMETER = "a parameter of its own, not the weight of a layer: give a rule"
    UNNAMED = "no name says what it is: give a rule"
    DISTRIBUTION = "of a distribution of weights by its name: give a rule"
    NOT_RECURRENT = "may be recurrent, but no input matrix is beside it: give a rule"
    U_OR_W = "U or W is recurrent, as books differ: give a rule"
    GATES = "no name says how many gates it holds: name them in a rule"
    INPUT_MATRIX = "the input matrix of a recurrent layer"
    UNREAD = "no other layer seems to read its outputs"
    LAST_DENSE = "the last dense layer"
    LIKE_LAST_DENSE = "like the last dense layer, in a module of the same name"
    IN_HEAD = "the last layer of a head by its path"
    NAMED_OUTPUT = "an output of the network by its name"
    CIRCULAR = "perhaps the last dense layer: two modules can read each other"
    TRANSPOSED = "its outputs may come before its inputs: give layout='HWOI' or 'HWIO' in a pom"
    SWAPPED = (
        "its bias, or the normalization after it, is as long as its inputs: give a layout with "
        "inputs and outputs swapped"
    )
    TRANSPOSED_BESIDE_OTHERS = (
        "its inputs may come before its outputs, as in PyTorch: give layout='IOHW' or 'OIHW' in a "
        "pom"
    )
    LAST_CONVOLUTION = "the last layer: no other reads its outputs"


UNSAID = frozenset(
    {
        Reason.NO_ATTENTION,
        Reason.IN_ATTENTION,
        Reason.HEADS_ELSEWHERE,
        Reason.NOT_RECURRENT,
        Reason.U_OR_W,
        Reason.GATES,
        Reason.GATES_OR_HEADS,
        Reason.GATES_BEFORE,
        Reason.BARE_PROJECTION,
        Reason.LEARNED_QUERIES,
        Reason.DISTRIBUTION,
        Reason.UNNAMED,
    }
)
"""The reasons of leaves that a preset might place, if their names and shapes said what they are."""

AXES_UNSAID = {Reason.TRANSPOSED: "HWOI", Reason.TRANSPOSED_BESIDE_OTHERS: "IOHW"}
"""The reasons of transposed convolutions of unknown layout, and that of their framework."""

AS_ASKED = frozenset({Reason.RULE, Reason.NO_DEFAULT, Reason.FEW_AXES})
"""The reasons of leaves that nobody expects on a manifold: an optimizer warns of all others."""


def by_path(kind: str) -> str:
    """The reason of a leaf that is Euclidean because of its kind, as `kind_of` gives it."""
    name = {
        "query": "attention",
        "recurrent": "in a recurrent layer",
        "spectral": "weights of Fourier modes",
    }.get(kind, kind)
    return f"{name} by its path"

"""A fixed, stratified order of examples, from which every split of a data set is taken."""

import numpy as np

SPLIT_SEED = 0  # the same split for every run, so that errors can be compared


def stratified_order(labels: np.ndarray) -> np.ndarray:
    """A fixed random order in which every prefix contains each class in proportion.

    Each example gets its rank within its class, as a fraction of the class; sorting by that
    fraction interleaves the classes evenly.

    Args:
        labels: Class labels, shape `(number,)`.

    Returns:
        A permutation of `range(number)`.
    """
    generator = np.random.default_rng(SPLIT_SEED)
    shuffled = generator.permutation(len(labels))
    fraction = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        fraction[members] = (np.arange(len(members)) + 0.5) / len(members)
    return shuffled[np.argsort(fraction[shuffled], kind="stable")]

"""Statistics of the features that enter the kernels of a network."""

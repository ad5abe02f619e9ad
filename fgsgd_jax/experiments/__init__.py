"""What `python -m fgsgd_jax` runs: data, networks, training, reports. Needs the `train` extra."""

"""The commands of `python -m fgsgd_jax`, one folder each. They need the `train` extra.

`train`, `compare`, `path_figures` (the command `paths`) and `bench` are the commands. They share
the command line (`cli`, `argument_types`, `shared_arguments`), the data sets (`data`), the network
(`models`), the configuration of a run (`config`), its folder (`run_folder`) and the style of
figures (`plots`).
"""

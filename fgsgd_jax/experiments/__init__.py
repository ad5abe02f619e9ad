"""The commands of `python -m fgsgd_jax`, one folder each. They need the `train` extra.

A command is a package with `main` and, in `config.py`, its arguments; it is registered in
`fgsgd_jax.__main__`. All share the command line (`cli`, `arguments`), writing files (`files`), the
data sets (`data`), the network (`models`), the folder of a run (`run_folder`) and the style of
figures (`plots`).
"""

"""Strangers: does the suite work on models that nobody here has seen?

`models.toml` names the architectures, `files.toml` public files. `by_hand/` judges every file without a line of
`parity`; what the two say of the same file is joined by `run.py`.
"""

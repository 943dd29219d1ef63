"""Toolchains: converters in locked environments of their own, so that the user's environment is never changed.

`definitions` says which there are and what each holds, `interpreters` finds a Python, `environments` makes one, and
`resolving` says which interpreter a step of a route runs under. Beside each other lie NAME.toml, what a lock is
resolved from, and NAME.txt, the lock; `make locks` writes it again.
"""

"""What `parity export` does, a room a job: options, adapting a model to them, verifying, publishing, summing up.

Everything here works through the same session, checks and limits as `pytest -m parity`.
"""

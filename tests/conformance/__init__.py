"""coremltools' own numeric tests, run through the evaluator. See ``python -m tests.conformance --help``."""

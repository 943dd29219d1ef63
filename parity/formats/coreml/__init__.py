"""Core ML programs and neural networks: made by coremltools, run by the evaluator in parity.mil."""

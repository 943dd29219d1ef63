"""Makes the repository root importable in tests; the parity fixtures come from the installed plugin."""

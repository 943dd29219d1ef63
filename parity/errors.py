"""The errors that a user of the suite sees. Imports nothing, so that every room may raise them."""


class ParityError(Exception):
    """A user's mistake or a named failure: one line that says what, where and what to do.

    The command line and the plugin print the message without a traceback.
    """


class ConfigError(ParityError):
    """A mistake in `[tool.parity]`, an option or an environment override."""

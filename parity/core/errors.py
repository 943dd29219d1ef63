"""The errors that a user of the suite sees. Imports nothing, so that every room may raise them."""


class ParityError(Exception):
    """A user's mistake or a named failure: one line that says what, where and what to do.

    The command line and the plugin print the message without a traceback.
    """


class ConfigError(ParityError):
    """A mistake in `[tool.parity]`, an option or an environment override."""


class NoTwin(ParityError):
    """The module has no twin at a precision. One that died, or that could not be stored, is another error: whoever is
    content without a noise floor must not be content with those."""


class Unconvertible(ParityError):
    """A converter's step that fails at what it was given, as at an operator: it does so at every precision."""


class Disagrees(ParityError):
    """A file whose execution here computes something else than its own runtime does, or fails where that does not."""

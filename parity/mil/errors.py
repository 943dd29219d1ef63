"""What can be wrong with a Core ML file or with its inputs, as errors that a user can act on."""

from parity.core.errors import ParityError


class CorruptPackage(ParityError):
    """The file cannot be what a converter wrote: truncated, inconsistent, or reaching outside its folder."""


class UnsupportedOperator(ParityError):
    """The file needs an operator (named in ``operator``) that cannot be evaluated here."""

    def __init__(self, operator: str, why: str) -> None:
        super().__init__(f"operator {operator}: {why}")
        self.operator = operator


class InputError(ParityError):
    """The inputs given to a program are not those that its interface declares."""


class OperatorFailed(ParityError):
    """An operator could not compute its result from the values it was given."""

"""One library of named faults with two uses: would the gate notice (`power`), and what explains this (`diagnose`).

Importing this package imports no torch. The faults themselves load in the child process that evaluates them.
"""

from parity.faults.base import Evidence, Fault, FileFault, Parameter, Subject, register_fault

__all__ = ["Evidence", "Fault", "FileFault", "Parameter", "Subject", "register_fault"]

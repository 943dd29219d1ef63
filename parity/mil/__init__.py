"""A reference evaluator of Core ML programs that runs on any operating system.

Core ML predicts only on macOS. This package reads a saved ``.mlpackage`` itself, executes the program in it
with torch, and says what a device would compute, what it noticed on the way, and every value in between::

    program = parity.mil.load("model.mlpackage")
    outputs = program.run({"image": picture})
    for event in program.events:
        print(event)

It reuses only coremltools' protobuf schema: none of its type or value inference, whose faults it must not
share.
"""

from parity.mil.errors import CorruptPackage, InputError, OperatorFailed, UnsupportedOperator
from parity.mil.events import Event
from parity.mil.interface import Feature
from parity.mil.nn.network import Network
from parity.mil.program import Program, load
from parity.mil.state import State

__all__ = [
    "CorruptPackage",
    "Event",
    "Feature",
    "InputError",
    "Network",
    "OperatorFailed",
    "Program",
    "State",
    "UnsupportedOperator",
    "load",
]

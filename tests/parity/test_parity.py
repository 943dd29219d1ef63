"""The example models of this repository, through the suite that every project uses."""

from parity.suite import *  # noqa: F403

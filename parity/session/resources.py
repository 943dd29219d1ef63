"""What every part of a session works with: configuration, store, children, memo, progress."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from parity.core.errors import ParityError
from parity.core.settings import Config
from parity.process.isolate import Budget, ChildFailure, Children
from parity.session.memo import Memo
from parity.store.cache import Store

T = TypeVar("T")
Progress = Callable[[str, str], None]  # (cell or model, stage)


class Resources:
    """Configuration, store, child processes and memo of one process of one run.

    `run` names the run; all its processes share it. `rebuild_since` (epoch seconds): entries of the
    store that are older count as absent. `progress` is called with a cell or model, and the stage
    that begins. One object, so that every part sees what its session is given later.
    """

    def __init__(
        self,
        config: Config,
        run: str,
        *,
        store: Store | None = None,
        budget: Budget | None = None,
        rebuild_since: float | None = None,
        progress: Progress = lambda subject, stage: None,
    ):
        self.config = config
        self.run = run
        self.store = store or Store.at(config.cache, config.root)
        self.children = Children(
            config.root,
            budget or Budget.of(config.timeout, config.memory),
            foreign=_foreign(config),
        )
        self.children.allow(self.store.building)
        self.memo = Memo()
        self.rebuild_since = rebuild_since
        self.progress = progress

    def waiting_once(self, subject: str, call: Callable[[], T], uses: Sequence[str] = ()) -> T:
        """The result of `call`, unless the run waited in vain for `subject` before, or for what it
        `uses`.

        A file or module that hangs does so in every test that uses it. Its first time-out is told to
        all processes of the run, and is raised again at once where it would be waited for again.
        Raises ChildFailure.
        """
        for name in (subject, *uses):
            if earlier := self.store.noted(self.run, _timed_out(name)):
                raise ChildFailure(**earlier)
        try:
            return call()
        except ChildFailure as failure:
            if failure.state == "timeout":
                with contextlib.suppress(ParityError):  # no store: the next one waits again
                    self.store.note(self.run, _timed_out(subject), failure.notes)
            raise


def _timed_out(subject: str) -> str:
    return f"timed out: {subject}"


def _foreign(config: Config) -> Iterator[Path]:
    """The files and folders of the configuration that somebody else may have made, as calls name them."""
    for model in config.models.values():
        if model.reference is not None:
            yield model.reference
        for prebuilt in model.artifacts.values():
            yield prebuilt.path
            yield prebuilt.path.parent


class Part:
    """One job of a session, with the resources that it does it with."""

    def __init__(self, resources: Resources):
        self.resources = resources

    @property
    def memo(self) -> Memo:
        return self.resources.memo

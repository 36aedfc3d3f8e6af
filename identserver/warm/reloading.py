"""Which system file is in force, and when is it read again?"""

from __future__ import annotations

import os

from lookup.config import system_file

from ..answer import load_system_file
from .workers import SYSTEM_FILE

TYPE_CHECKING = False  # see deadlines.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from lookup.config.blocks import System

    from ..log import Log
    from ..options import Options

    Signature = tuple[int, ...]

#: Seconds for which a changed system file must have been left alone before it is read again.
REST_SECONDS = 0.2


def signature(options: Options) -> Signature:
    """Return what changes whenever the system file does; nothing where it is not read."""
    if options.reply_all is not None:
        return ()
    try:
        status = os.stat(options.system_file)
    except OSError:  # ENOENT, EACCES: none to see
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


def read(options: Options) -> System | None:
    """Read the system file for the first time; None: there is none, or the options leave it nothing to decide.

    :raises IdentError: it can't be read or is wrong. To name somebody against it would be worse than to name nobody.
    """
    return load_system_file(options) if options.reply_all is None else None


class SystemFile:
    """Reads the system file again after it has changed, or on request."""

    def __init__(
        self, options: Options, seen: Signature, in_thread: Callable[..., Any],
        put_in_force: Callable[[System | None], object], log: Log,
    ) -> None:  # fmt: skip
        """:param seen: the file's signature before it was read: a change meanwhile must be noticed.

        :param in_thread: has a function called that may block, as `Lookups.in_thread` does.
        :param put_in_force: called with what the file allows, each time that it was read well.
        """
        self._options, self._log = options, log
        self._in_thread, self._put_in_force = in_thread, put_in_force
        self._seen = seen
        #: The signature at the last look, and since when it has been that.
        self._changed = seen, 0.0
        #: How many times the file was read again, and which of them counts.
        self._readings = self._in_force = 0

    def look_for_a_change(self, now: float) -> None:
        """Read the file again once whoever changes it has left it alone: a half of it may parse, too."""
        found = signature(self._options)
        if found != self._changed[0]:
            self._changed = found, now
        if found != self._seen and now - self._changed[1] >= REST_SECONDS:
            self.read_again()

    def look_again_at(self) -> float:
        """Return when a change that was seen may have come to rest; infinity where there was none."""
        return float("inf") if self._changed[0] == self._seen else self._changed[1] + REST_SECONDS

    def read_again(self) -> None:
        """Read the file again in a thread: names in it may have to be looked up."""
        if self._options.reply_all is not None:
            return
        self._seen = signature(self._options)
        self._readings += 1
        number = self._readings

        def put_in_force(system: System | None) -> None:
            # Threads may overtake each other, and a later reading has the newer file.
            if number > self._in_force:
                self._in_force = number
                self._put_in_force(system)
                self._log.write(self._log.INFO, "the configuration was read again")

        self._in_thread(SYSTEM_FILE, self._load, None).addCallbacks(put_in_force, self._keep_the_old)

    def _load(self, once: list[None]) -> Iterator[System | None]:
        """Run in a thread."""
        for _ in once:
            yield system_file.load(self._options.system_file, self._options.requires_system_file)

    def _keep_the_old(self, failure: Any) -> None:
        reason = getattr(failure.value, "detail", failure.value)
        self._log.write(self._log.ERROR, f"{reason}; the configuration that was read before stays in force")

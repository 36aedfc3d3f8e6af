"""Which system file is in force, and when is it read again?"""

from __future__ import annotations

import os
import time

from lookup.config import system_file
from lookup.connection import IdentError, Unknown, within

from ..answer import LOOKUP_SECONDS, load_system_file, with_key
from .workers import SYSTEM_FILE

TYPE_CHECKING = False  # see deadlines.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from lookup.config.blocks import System
    from lookup.config.pseudonym import Pseudonyms

    from ..log import Log
    from ..options import Options
    from .notify import Notify

    Signature = tuple[int, ...]

#: Seconds for which a changed system file must have been left alone before it is read again.
REST_SECONDS = 0.2

#: Seconds after which the names of users in the file are looked up again, as administrators change uids (usermod); and
#: after which a file is tried again that could not be obeyed, for a reason that may have passed (a folder's mode, EIO).
NAMES_SECONDS, TRY_AGAIN_SECONDS = 2.0, 2.0


def signature(options: Options) -> Signature:
    """Return what changes whenever the system file does; nothing where it is not read."""
    if options.reply_all is not None:
        return ()
    try:
        status = os.stat(options.system_file)
    except OSError:  # ENOENT, EACCES: none to see
        return ()
    # The third changes with the mode as well, and `cp -p` can't set it back.
    return status.st_size, status.st_ino, status.st_ctime_ns


def read(options: Options, kept: Pseudonyms | None) -> System | Unknown | None:
    """Read the system file for the first time; None: there is none, or the options leave it nothing to decide.

    `Unknown`: it can't be read or is wrong. To name somebody against it would be worse than to name nobody.

    :param kept: what the key makes that was read as root, for pseudonyms.
    """
    if options.reply_all is not None:
        return None
    try:
        return within(LOOKUP_SECONDS, load_system_file, options, [], kept)
    except TimeoutError:
        # A file system, or the name service that is asked about a user in the file. Who waits for us waits no longer.
        return Unknown(f"{options.system_file} could not be read within {LOOKUP_SECONDS:g} s")
    except IdentError as error:
        return Unknown(error.detail)
    except OSError as error:  # EAGAIN, ENOMEM: no thread
        return Unknown(f"{options.system_file} could not be read: {error}")


class SystemFile:
    """Reads the system file again after it has changed, or on request."""

    def __init__(
        self, options: Options, seen: Signature, system: System | Unknown | None, in_thread: Callable[..., Any],
        put_in_force: Callable[[System | None], object], log: Log, notify: Notify, kept: Pseudonyms | None = None,
    ) -> None:  # fmt: skip
        """:param seen: the file's signature before it was read: a change meanwhile must be noticed.

        :param system: what was read then.
        :param in_thread: has a function called that may block, as `Lookups.in_thread` does.
        :param put_in_force: called with what the file allows, each time that it was read well.
        :param kept: what the key makes that was read as root: it counts for as long as it can't be read again.
        """
        self._kept = kept
        self._options, self._log, self._notify = options, log, notify
        self._in_thread, self._put_in_force = in_thread, put_in_force
        self._seen = seen
        #: The signature at the last look, and since when it has been that.
        self._changed = seen, 0.0
        #: How many times the file was read again, and which of them counts.
        self._readings = self._in_force = 0
        self._system = system
        #: When something is to be asked again though the file has not changed; infinity: that is under way.
        self._again = time.monotonic() + NAMES_SECONDS
        self._report(system)

    def look_for_a_change(self, now: float) -> None:
        """Read the file again once whoever changes it has left it alone: a half of it may parse, too."""
        found = signature(self._options)
        if found != self._changed[0]:
            self._changed = found, now
        if found != self._seen and now - self._changed[1] >= REST_SECONDS:
            self.read_again()
        elif now >= self._again:
            if isinstance(self._system, Unknown):
                self._again = now + TRY_AGAIN_SECONDS
                self._in_thread(SYSTEM_FILE, self._load, None).addCallbacks(self._mended, id)
            elif self._system is not None and self._system.sections:
                self._again = float("inf")
                old = self._system
                self._in_thread(SYSTEM_FILE, self._load, old).addCallbacks(
                    lambda system: self._assigned(old, system), self._not_assigned
                )

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
        self._notify.reading()

        def put_in_force(system: System | None) -> None:
            # Threads may overtake each other, and a later reading has the newer file.
            if number > self._in_force:
                self._in_force = number
                self._use(system)
                self._report(system)
                self._log.write(self._log.INFO, "the configuration was read again")
            self._notify.read()

        def keep_the_old(failure: Any) -> None:
            self._keep_the_old(failure)
            self._notify.read()

        self._in_thread(SYSTEM_FILE, self._load, None).addCallbacks(put_in_force, keep_the_old)

    def _load(self, systems: list[System | None]) -> Iterator[System | None]:
        """Run in a thread: read the file, or look up the users in what was read."""
        for system in systems:
            if system is None:
                loaded = system_file.load(self._options.system_file, self._options.requires_system_file, [])
                yield with_key(loaded, self._options, self._kept)
            else:
                yield system_file.look_up_again(system)

    def _use(self, system: System | None) -> None:
        self._system = system
        self._again = time.monotonic() + NAMES_SECONDS
        self._put_in_force(system)

    def _assigned(self, old: System, system: System) -> None:
        if self._system is old:
            self._use(system)
            self._notify.trouble(_in_short(system))
        self._again = time.monotonic() + NAMES_SECONDS

    def _not_assigned(self, failure: Any) -> None:
        self._again = time.monotonic() + NAMES_SECONDS

    def _mended(self, system: System | None) -> None:
        if isinstance(self._system, Unknown):
            self._use(system)
            self._report(system)
            self._log.write(self._log.INFO, "the configuration could be read")

    def _report(self, system: System | Unknown | None) -> None:
        """Log what is wrong with the file that was read, or with the users and hosts in it."""
        if isinstance(system, Unknown):
            self._complain(system.reason)
            return
        for notice in system.missing if system is not None else ():
            self._log.write(self._log.ERROR, str(notice))
        keyless = ""
        if system is not None and isinstance(system.pseudonyms, Unknown):
            keyless = f"{system.pseudonyms.reason}; nobody with a pseudonym is named"
            self._log.write(self._log.ERROR, keyless)
        self._notify.trouble(keyless or _in_short(system))

    def _keep_the_old(self, failure: Any) -> None:
        self._complain(getattr(failure.value, "detail", failure.value))

    def _complain(self, reason: object) -> None:
        """Log why the file can't be obeyed, and what holds meanwhile."""
        unknown = isinstance(self._system, Unknown)
        meanwhile = "nobody is named until that is mended" if unknown else (
            "the configuration that was read before stays in force"
        )  # fmt: skip
        self._log.write(self._log.ERROR, f"{reason}; {meanwhile}")
        self._notify.trouble(f"{reason}; {meanwhile}")


def _in_short(system: System | None) -> str:
    """Return the first of the users and hosts in the file that are unknown, and how many more there are."""
    missing = system.missing if system is not None else ()
    if not missing:
        return ""
    return f"{missing[0]}" + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else "")

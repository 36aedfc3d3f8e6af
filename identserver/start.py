"""How was identd started, and which room serves that?"""

from __future__ import annotations

import os
import sys

from lookup.errors import IdentError

from .inherited import full, inherited, is_listening, is_started_as_a_daemon, own_listeners, shield_the_peer
from .log import Log, say
from .options import Options, UsageError, left_over, read

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lookup.config.blocks import System

    from .answer import Lookups

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run identd, and return its exit status: `EXIT_OK`, `EXIT_FAILED` or `EXIT_USAGE`.

    :param argv: the arguments without the program's name; None: the process' own.
    """
    shielded = shield_the_peer()
    _unblock_signals()
    log = Log(Options(), shielded)
    try:
        argv = sys.argv[1:] if argv is None else argv
        options = read(argv)
        log = Log(options, shielded)
        return _run(options, log, left_over(argv))
    except (UsageError, IdentError, OSError, ImportError) as error:
        # EBADF: standard input is closed. EADDRINUSE, EACCES: a port. EPERM: privileges. ENOSPC: a pipe's end.
        # ImportError: Python, or its packages, are closed to the user that we became.
        log.fail(_reason(error))
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_OK
    except Exception as error:
        if not (shielded or log.journal):
            raise
        # A mistake of ours. Nobody sees the traceback, so the log has it.
        import traceback

        log.fail("".join(traceback.format_exception(type(error), error, error.__traceback__)))
        return EXIT_FAILED


def _reason(error: Exception) -> str:
    """Return why we end, in one sentence."""
    if isinstance(error, ImportError):
        from .closed import why  # seldom needed

        return why(error)
    reason = getattr(error, "strerror", "") or getattr(error, "detail", "") or str(error)
    path = getattr(error, "filename", None)
    return f"{os.fsdecode(path)}: {reason}" if isinstance(path, (str, bytes)) else str(reason)


def _unblock_signals() -> None:
    """Let every signal come, whatever whoever started us has blocked: SIGTERM ends us, SIGALRM what reads for us."""
    from _signal import SIG_SETMASK, pthread_sigmask  # type: ignore[import-not-found]  # the interpreter has it

    pthread_sigmask(SIG_SETMASK, ())


def _run(options: Options, log: Log, operands: Sequence[str]) -> int:
    """Do what the options and standard input ask for."""
    without_meaning = dict.fromkeys([*options.ignored, *(f"'{operand}'" for operand in operands)])
    ignored = [f"{each} has no meaning here and is ignored" for each in without_meaning]
    if options.check:
        if operands:
            raise UsageError(f"'{operands[0]}' is left over: neither an option nor an option's argument")
        from .admin.check import check

        return check(options)
    if options.explain is not None:
        from .admin.explain import explain

        return explain(options)
    if options.new_key:
        from .admin.key import new_key

        return new_key(options)
    if options.install_service is not None:
        from .admin.install import install_service

        return install_service(options)
    if options.reveal is not None:
        from .admin.reveal import reveal

        return reveal(options)
    if options.form:
        from lookup.users import formats  # noqa: F401  (now: root may be given up before it is used)
    own = options.foreground and not options.stdio
    sockets = [] if own else inherited()
    background = not (sockets or own or options.stdio) and (options.listens or _is_a_daemon())
    if own or background:
        sockets = [*own_listeners(options.address, options.port)]
    if not sockets:
        from .by_hand import serve_lines

        for warning in ignored:
            say(warning)
        serve_lines(options, log, _lookups(options).look_up)
    elif is_listening(sockets[0]):
        from .warm.server import serve_sockets

        for warning in ignored:
            log.write(Log.ERROR, warning)
        serve_sockets(full(sockets), options, log, background)
    else:
        from .single import serve_connection

        serve_connection(sockets[0], options, log, _lookups(options).look_up)
        # Everything is sent. Tidying the interpreter up takes 3 ms more, and a lookup that hangs could hold it up.
        os._exit(EXIT_OK)
    return EXIT_OK


def _is_a_daemon() -> bool:
    """Say whether we were started as a daemon is, without saying so, as upstream's unit for oidentd does."""
    return os.geteuid() == 0 and is_started_as_a_daemon()


def _lookups(options: Options) -> Lookups:
    """Return what looks queries up. Root is given up first, for good: it does not read what clients send.

    :raises UsageError, OSError: root can't be given up.
    """
    from .answer import Lookups, keep_key, load_system_file

    kept = None

    def load() -> System | None:
        return load_system_file(options, kept=kept)

    if os.geteuid() == 0 and (options.user is not None or options.group is not None):
        from .privileges import drop_privileges

        kept = keep_key(options)
        drop_privileges(options.user, options.group)
    if os.geteuid() != 0:
        return Lookups(load, form=options.form)
    from . import as_root  # only for root

    return as_root.lookups(options, load)

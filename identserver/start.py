"""How was identd started, and which room serves that?"""

from __future__ import annotations

import os
import sys

from lookup.errors import IdentError

from .inherited import full, inherited, is_listening, own_listeners, shield_the_peer
from .log import Log, say
from .options import Options, UsageError, read

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
    log = Log(Options(), shielded)
    try:
        options = read(sys.argv[1:] if argv is None else argv)
        log = Log(options, shielded)
        return _run(options, log)
    except (UsageError, IdentError, OSError, ImportError) as error:
        # EBADF: standard input is closed. EADDRINUSE, EACCES: a port. EPERM: privileges. ENOSPC: a pipe's end.
        # ImportError: Python, or its packages, are closed to the user that we became.
        message = getattr(error, "strerror", "") or getattr(error, "detail", "") or str(error)
        say(message)
        if shielded:
            log.write(Log.ERROR, message)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_OK
    except Exception as error:
        if not shielded:
            raise
        # A mistake of ours. Nobody sees the traceback, so the log has it.
        import traceback

        log.write(Log.ERROR, "".join(traceback.format_exception(type(error), error, error.__traceback__)))
        return EXIT_FAILED


def _run(options: Options, log: Log) -> int:
    """Do what the options and standard input ask for."""
    if options.check:
        from .admin.check import check

        return check(options)
    if options.explain is not None:
        from .admin.explain import explain

        return explain(options)
    if options.new_key:
        from .admin.key import new_key

        return new_key(options)
    if options.reveal is not None:
        from .admin.reveal import reveal

        return reveal(options)
    if options.form:
        from lookup.users import formats  # noqa: F401  (now: root may be given up before it is used)
    for name in options.ignored:
        log.write(Log.ERROR, f"{name} has no meaning here and is ignored")
    own = options.foreground and not options.stdio
    sockets = [] if own else inherited()
    background = not sockets and not own and not options.stdio and options.listens
    if own or background:
        sockets = [*own_listeners(options.address, options.port)]
    if not sockets:
        from .by_hand import serve_lines

        serve_lines(options, log, _lookups(options).look_up)
    elif is_listening(sockets[0]):
        from .warm.server import serve_sockets

        serve_sockets(full(sockets), options, log, background)
    else:
        from .single import serve_connection

        serve_connection(sockets[0], options, log, _lookups(options).look_up)
        # Everything is sent. Tidying the interpreter up takes 3 ms more, and a lookup that hangs could hold it up.
        os._exit(EXIT_OK)
    return EXIT_OK


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

"""What does identd reply to a query, how long may that take, and what is logged about it, in which fields?"""

from __future__ import annotations

import os
import sys

from lookup.connection import IdentError, NoUser, Unknown, plain_host

from .log import Log, octets
from .protocol import Endpoint, Failure, IdentServer

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from lookup.behind import Ask
    from lookup.config.blocks import System
    from lookup.config.decision import Decision
    from lookup.config.pseudonym import Pseudonyms
    from lookup.config.user_file import Also, Fetched
    from lookup.config.words import Notice
    from lookup.connection import Address, Arrival, Owner
    from lookup.machines import Named
    from lookup.owner import Answer

    from .elsewhere import Elsewhere
    from .options import Options

    Result = TypeVar("Result")
    #: Finds out, for two ends that are nobody's, why that is so, and calls what it is given with a text.
    Why = Callable[[Address, Address, Callable[[str], object]], object]

    #: Finds out which process holds an owner's socket, and calls a function with that.
    FindHolder = Callable[[Owner, Callable[[str], object]], None]

    #: Reads an owner's file, and what other files of theirs have for a connection.
    Fetch = Callable[[int, str, Also], Fetched]

#: Seconds for one lookup. Clients hold their user's login until the reply comes, and some give up after five.
LOOKUP_SECONDS = 4.0

#: Seconds to wait for the end of a client that sent more than its query. Closing with unread input
#: makes the kernel reset the connection, and the client may lose the reply.
LINGER_SECONDS = 1.0

#: Octets of an invalid query that the log shows.
_SHOWN = 80

#: How login names and arguments were decoded (os.fsdecode): what goes out are the same octets.
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()

#: Of how many queries on one connection it is found out why they are about nobody's connection, with --debug.
_EXPLAINED = 8


class AnsweringServer(IdentServer):
    """The server that identd is: asks `lookup`, applies the options, logs what it replied.

    What every query goes through names the base class: super() takes 1 us where the processor has just woken up.
    """

    #: For the journal: the owner's login name and uid, their container, and the blocks that decided.
    _fields: tuple[tuple[str, str], ...] = ()
    #: The ends of connections that are nobody's, for whoever debugs.
    _unexplained: tuple[tuple[Address, Address], ...] = ()

    def __init__(
        self, options: Options, log: Log, look_up: Callable[..., Any], why_nobody: Why | None = None,
        find_holder: FindHolder | None = None,
    ) -> None:  # fmt: skip
        """:param look_up: returns the owner's `Answer`, or what `IdentServer.lookup` may return in place of it.

        It is given the two addresses, and the transport's `Arrival`: how the query came in.
        :param why_nobody: finds out, with --debug, why a connection is nobody's; None: `say_why_nobody` does.
        :param find_holder: calls back, perhaps later, with which process holds an owner's socket.
        """
        self._find_holder = find_holder or _find_holder
        self.multi_query = options.multi_query
        self._options = options
        self._log = log
        self._look_up = look_up
        #: The beginning and the end of the line in the log, and what that line is worth. The owner's uid comes first:
        #: what is sent may be of the owner's choice, look like the rest of such a line, or be cut off with it.
        self._about, self._note, self._severity = "", "", Log.INFO
        self._why_nobody = why_nobody
        #: What was answered, which `_describe` has still to look at.
        self._answer_given: Any = None
        #: Whom it is about, where that is known.
        self._owner: Owner | None = None
        #: What `_describe` has still to describe: the login name, the uid, what decided, who found the owner.
        self._whom: tuple[str, int, Decision | None, str] | None = None
        #: Whether a query was answered.
        self.answered = False

    def connectionMade(self) -> None:
        self.peer = self.transport.getPeer().host or "standard input"

    def lookup(self, serverAddress: Address, clientAddress: Address) -> Any:
        if self._options.reply_all is not None:
            return "UNIX", self._options.reply_all
        if self._options.debug:
            self._ends = serverAddress, clientAddress
        try:
            return self._look_up(serverAddress, clientAddress, self.transport.arrival)
        except ImportError as error:
            # Python, or a package of ours, is closed to us, or not whole.
            from .closed import why

            raise IdentError(f"can't be imported: {why(error)}") from None

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse(f"a line that has not ended after {self.MAX_LENGTH} octets", line)

    def lineReceived(self, line: bytes) -> None:
        self._line = line
        self._answer_given = self._owner = self._whom = None
        self._about, self._note, self._severity = "", "", Log.INFO
        if self._log.takes_fields:
            self._fields = ()
        IdentServer.lineReceived(self, line)

    def invalidQuery(self) -> None:
        self.refuse("an invalid query", self._line)

    def refuse(self, what: str, line: bytes) -> None:
        """End the connection because of a line that is no query."""
        self._log.write(Log.INFO, f"{self.peer} sent {what}: {octets(line[:_SHOWN])}")
        super().invalidQuery()

    def _cbLookup(self, result: Any, sport: int, cport: int) -> None:
        self._answer_given = result
        system, user = result
        options = self._options
        if (options.other or options.charset) and not getattr(result, "as_it_is", False):
            system = options.other or system
            if options.charset:
                system += "," + options.charset
        IdentServer._cbLookup(self, (system, user.encode(_ENCODING, _ERRORS)), sport, cport)

    def _ebLookup(self, failure: Any, sport: int | str, cport: int | str) -> None:
        error = failure.value
        if isinstance(error, IdentError) and error.identDescription == IdentError.identDescription:
            self._severity = Log.ERROR
        self._describe()  # the owner, where it is their name that can't be sent
        self._note = f" ({error.detail})" if getattr(error, "detail", "") else ""
        self._owner = getattr(error, "owner", None)
        decision: Any = getattr(error, "decision", None)
        if decision is not None:
            self._whom = decision.login, error.uid, decision, ""
        elif isinstance(uid := getattr(error, "uid", None), int) and uid >= 0:
            self._about = f"uid {uid}: "
            self._fields = (("IDENT_UID", f"{uid}"),)
        if self._options.debug and isinstance(error, NoUser):
            self._ask_why_nobody(*self._ends)
        if self._options.reply is not None and isinstance(error, NoUser):
            self._cbLookup(("UNIX", self._options.reply), int(sport), int(cport))
        else:
            if self._options.error and isinstance(error, IdentError):
                failure = Failure(IdentError(error.detail))
            super()._ebLookup(failure, sport, cport)

    def _describe(self) -> None:
        """Keep for the log who the owner is, and which rule decided. Log what is wrong with their files."""
        result, self._answer_given = self._answer_given, None
        if result is not None:
            self._look_at(result)
        if self._whom is None:
            return
        (login, uid, decision, source), self._whom = self._whom, None
        for logged, text in decision.files if decision is not None else ():
            self._log.write(Log.ERROR if logged else Log.DEBUG, text)
        if not self._log.wants(self._severity):
            return
        who = ", ".join(filter(None, (login, f"uid {uid}", self._owner.where if self._owner is not None else "")))
        self._about = f"uid {uid}: "
        self._note = f" ({who}, {source})" if source else f" ({who})"
        if decision is not None:
            if decision.impersonated:
                self._log.write(Log.INFO, f"{who} tried to pass for {decision.impersonated}")
            if decision.forwarded:
                self._log.write(Log.INFO, f"uid {uid}: {decision.forwarded}")
            rules = f"rule {decision.rule}" if decision.has_rule else decision.rule, decision.statement_at
            self._note = f" ({', '.join(filter(None, (who, source, *rules)))})"
        if self._log.takes_fields:
            self._fields = ("IDENT_OWNER", login), ("IDENT_UID", f"{uid}")
            if self._owner is not None:
                self._fields += (("IDENT_CONTAINER", self._owner.container),)
            if decision is not None:
                at = decision.rule if decision.has_rule else "", decision.statement_at
                self._fields += tuple(("IDENT_RULE", place) for place in at)

    def _look_at(self, result: Any) -> None:
        """Keep whom an answer is about."""
        owner = self._owner = getattr(result, "owner", None)
        if owner:
            self._whom = result.login, owner.uid, result.decision, owner.source
            if self._log.wants(Log.DEBUG):
                self._log.write(Log.DEBUG, "; ".join([*owner.steps, f"found {owner!r}"]))
        if how := getattr(result, "how", ""):
            self._note = f" ({how})"

    def lookup_failed(self, error: BaseException) -> None:
        self._log.exception(error)

    def sendLine(self, line: bytes) -> None:
        IdentServer.sendLine(self, line)
        self.answered = True
        self._describe()  # only now: the client waits for its reply
        if self._log.wants(self._severity):
            severity, text = self._severity, f"{self._about}{self.peer} was told {octets(line)}{self._note}"
            fields = self._as_fields(line) if self._log.takes_fields else None
            if not self._options.process or self._owner is None:
                self._log.write(severity, text, fields)
                return

            def found(held_by: str) -> None:
                self._log.write(severity, f"{text}, held by {held_by}" if held_by else text, fields)

            # After the reply: the search takes time.
            self._find_holder(self._owner, found)

    def _as_fields(self, line: bytes) -> list[tuple[str, bytes]]:
        """Return what the journal keeps beside the text; what is not known has no field."""
        fields = [("IDENT_ASKER", os.fsencode(self.peer)), ("IDENT_PORTS", line.partition(b":")[0])]
        fields += [(name, os.fsencode(value)) for name, value in self._fields if value]
        return [*fields, ("IDENT_REPLY", line)]

    def _ask_why_nobody(self, server: Address, client: Address) -> None:
        """Have it found out why a connection is nobody's: now, by somebody else, or when the client has its reply."""
        if self._why_nobody is not None:
            self._why_nobody(server, client, self._telling(server, client))
        elif len(self._unexplained) < _EXPLAINED:
            self._unexplained += ((server, client),)

    def say_why_nobody(self) -> None:
        """Log, with --debug, why there is nobody for what was asked. May block for `LOOKUP_SECONDS` each."""
        unexplained, self._unexplained = self._unexplained, ()
        for server, client in unexplained:
            tell = self._telling(server, client)
            try:
                from lookup.kernel import causes  # only for whoever debugs

                tell(in_time(causes.as_text, server, client))
            except ImportError as error:
                tell(f"can't be found out: {error}")
            except (IdentError, OSError, ValueError) as error:
                # ValueError: an address on a link that is gone.
                tell(f"can't be found out: {getattr(error, 'detail', error)}")

    def _telling(self, server: Address, client: Address) -> Callable[[str], None]:
        """Return what logs why a connection is nobody's."""
        about = f"{self.peer} asked about {server[1]},{client[1]}, which is nobody's: "
        return lambda text: self._log.write(Log.DEBUG, about + text)


def endpoint(address: Any) -> Endpoint:
    """Translate what getsockname() gives: an IPv4-mapped host to plain IPv4, a link-local one with its scope."""
    if len(address) == 2:
        return Endpoint(*address)
    host, port = plain_host(address[0]), address[1]
    if address[3] and ":" in host:
        from _socket import if_indextoname

        try:
            host = f"{host}%{if_indextoname(address[3])}"
        except OSError:  # ENXIO: the interface went away; its number still tells it from others
            host = f"{host}%{address[3]}"
    return Endpoint(host, port)


def _find_holder(owner: Owner, then: Callable[[str], object]) -> None:
    """Find out at once which process holds a socket."""
    from lookup.kernel import holder  # only where that is wanted

    then(holder.describe([owner])[0])


def elsewhere(options: Options, ask: Ask | None) -> Elsewhere | None:
    """Return what looks for connections that no socket here has; None: no option says so.

    :param ask: looks behind NAT and into containers, with --masquerade.
    """
    if not (options.looks_behind or options.proxy):
        return None
    from .elsewhere import Elsewhere

    return Elsewhere(options, ask)


class Lookups:
    """What looks up the few queries of a process that lives for one connection, or for somebody's lines."""

    def __init__(
        self, load: Callable[[], System | None], options: Options, fetch: Fetch | None = None, ask: Ask | None = None,
        ahead: bool = False,
    ) -> None:  # fmt: skip
        """:param load: returns what the system file allows (`load_system_file`).

        :param fetch: reads an owner's file, where another process than `reader.fetch` starts has to do that.
        :param ask: see `elsewhere`.
        :param ahead: whether to have the owner's file read while the system file is: there is one, and it takes 2 ms.
        """
        self._ahead = ahead
        self._load = load
        self._form = options.form
        self._options = options
        self._fetch = fetch
        self._elsewhere = elsewhere(options, ask)
        #: Of the owner that the kernel told last.
        self._uid: int | None = None

    def look_up(self, serverAddress: Address, clientAddress: Address, arrival: Arrival | None) -> Answer | Named:
        """Do all that one query needs. May block for `LOOKUP_SECONDS`. :raises IdentError: nobody can be named."""
        self._uid = None
        try:
            return in_time(self._look_up, serverAddress, clientAddress, arrival)
        except IdentError as error:
            if error.uid is None:
                error.uid = self._uid
            raise

    def _look_up(self, server: Address, client: Address, arrival: Arrival | None) -> Answer | Named:
        try:
            owner = self._find(server, client, arrival)
        except IdentError as error:
            if self._elsewhere is None:
                raise
            return self._elsewhere.answer(error, arrival)
        from lookup.owner import answer, facts_about

        self._uid = owner.uid
        if owner.by_ports:
            server, client = owner.server, owner.client
        far = client if client[0] else owner.client

        def fetch(uid: int, home: str) -> Fetched:
            from lookup.config.user_file import others_of  # only where the owner's file matters

            also = others_of(server, far, system is not None and system.older)
            if reading is not None and reading.about == (uid, home, also):
                return reading.result()
            from . import reader

            return (self._fetch or reader.fetch)(uid, home, also)

        facts = facts_about(owner, fetch)
        reading = None
        if self._ahead:
            from . import ahead  # only where there is a system file

            reading = ahead.begin(facts, server, far)
        try:
            system = self._load()
            found = answer(owner, server, client, system, facts, arrival, self._form)
        finally:
            if reading is not None:
                reading.close()
        if isinstance(found, Unknown):
            raise IdentError(found.reason, owner.uid)
        return found

    def _find(self, server: Address, client: Address, arrival: Arrival | None) -> Owner:
        """Return the owner, behind NAT and in containers too where that is switched on."""
        import lookup  # what it needs is imported once there is a query to look up

        if self._elsewhere is None:
            return lookup.find(server, client, arrival)
        return self._elsewhere.find(server, client, arrival, lookup.find)


def in_time(function: Callable[..., Result], *arguments: object) -> Result:
    """Call what a lookup consists of. :raises IdentError: it takes longer than `LOOKUP_SECONDS`."""
    from lookup.connection import within

    try:
        return within(LOOKUP_SECONDS, function, *arguments)
    except TimeoutError:
        raise IdentError(f"the lookup took longer than {LOOKUP_SECONDS:g} s") from None


def may_have_system_file(options: Options) -> bool:
    """Say whether there is a system file, or may be one."""
    try:
        return options.requires_system_file or os.stat(options.system_file) is not None
    except FileNotFoundError:
        return False
    except OSError:
        # EACCES, EIO and the like: it may be there. What reads it says what is wrong.
        return True


def load_system_file(
    options: Options, notices: list[Notice] | None = None, kept: Pseudonyms | None = None
) -> System | None:
    """Return what the system file allows; None: there is none. :raises IdentError: nobody may be named against it.

    :param notices: see `system_file.load`. :param kept: what the key makes, where it was read before (`keep_key`).
    """
    if not may_have_system_file(options):
        return None
    from lookup.config import system_file
    from lookup.connection import ConfigError

    try:
        system = system_file.load(options.system_file, options.requires_system_file, notices)
    except ConfigError as error:
        raise IdentError(str(error)) from None
    return with_key(system, options, kept)


def with_key(system: System | None, options: Options, kept: Pseudonyms | None = None) -> System | None:
    """Return what the system file allows, with the key for the pseudonyms, if it has any."""
    if system is not None and system.needs_key:
        from lookup.config import key  # few system files have pseudonyms

        key.unlock(system, options.key, kept)
    return system


def keep_key(options: Options) -> Pseudonyms | None:
    """Return what the key makes, if we are root, who is about to be given up, and there is a key."""
    from lookup.config import key

    return key.keep(options.key)

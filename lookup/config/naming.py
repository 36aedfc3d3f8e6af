"""Which name may be sent for an owner, and which is another user's?"""

from __future__ import annotations

import os

from ..connection import Unknown, can_be_sent, unpack
from .blocks import HostName, quoted
from .decision import Decision
from .made_up import MADE_UP

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .blocks import End, Resolve, Statement
    from .made_up import Choose
    from .pseudonym import Pseudonyms

#: Far ports below this one are the privileged ones (ip(7)), whose servers may trust the name.
_PRIVILEGED = 1024

#: The statements for which a name is made up.
INVENTED = MADE_UP.keys() | {"pseudonym"}

#: How often a name is made up anew that turns out to be somebody's.
_ATTEMPTS = 5


class Naming:
    """The names for one owner and one connection. What comes of them is in ``decision``."""

    def __init__(
        self,
        owner_uid: int,
        login: bytes,
        far_end: End,
        uid_of: Callable[[bytes], int | Unknown | None],
        forward: Callable[..., bytes | str | Unknown],
        choose: Choose,
        resolve: Resolve,
    ) -> None:
        self.owner_uid = owner_uid
        self.login = login
        self.asker, self.far_port = far_end
        self.uid_of = uid_of
        self.forward = forward
        self.choose = choose
        self.resolve = resolve
        self.pseudonyms: Pseudonyms | Unknown | None = None
        #: What is sent wherever the login name would be; None: the login name.
        self.instead: Statement | None = None
        #: What was picked or made up, by the statement that it is for.
        self.picked: dict[object, bytes] = {}
        self.decision = Decision(os.fsdecode(login))
        self.explain = self.decision.explain

    # Each of the next returns the decision, so that nothing can follow it.

    def send(self, user: bytes) -> Decision:
        self.decision.user = user
        return self.decision

    def send_login(self) -> Decision:
        if self.instead is not None:
            self.explain("in place of the login name counts {} (line {})", self.instead, self.instead.line)
            reply = self.instead.arguments[0] if self.instead.arguments else None
            return self.send(reply) if isinstance(reply, bytes) else self.hide()
        self.decision.sends_login = True
        if not self.login:
            self.explain("the owner has no login name: the uid is sent")
            self.decision.system = "OTHER"
            return self.send(b"%d" % self.owner_uid)
        self.explain("the login name is sent: {}", self.login)
        return self.send(self.login)

    def hide(self) -> Decision:
        self.explain("the owner is hidden")
        return self.decision

    def give_up(self, unknown: Unknown) -> Decision:
        self.decision.unknown = unknown
        return self.decision

    def choose_reply(self, statement: Statement) -> bytes:
        replies = tuple(text for text in statement.arguments if isinstance(text, bytes))
        if replies not in self.picked:
            self.picked[replies] = self.choose(replies)
        reply = self.picked[replies]
        if len(replies) > 1:
            self.explain("chosen from {} replies: {}", len(replies), reply)
        return reply

    def make_up(self, statement: Statement) -> bytes | Unknown | None:
        """Return a name that is nobody's, or None: those that were made up are another user's."""
        kind = statement.kind, statement.arguments
        if kind in self.picked:
            return self.picked[kind]
        if statement.kind == "pseudonym":
            names: Iterable[bytes] | Unknown = self.pseudonyms_for(statement)
        else:
            attempts = range(1 if statement.kind == "numeric" else _ATTEMPTS)
            names = (MADE_UP[statement.kind](self.owner_uid, self.choose) for _ in attempts)
        if isinstance(names, Unknown):
            return names
        for name in names:
            # A pseudonym that is the owner's own name would tell it.
            mistaken = self.mistaken_for(name, -1 if statement.kind == "pseudonym" else self.owner_uid)
            if isinstance(mistaken, Unknown):
                return mistaken
            if not mistaken:
                self.explain("made up: {}", name)
                self.picked[kind] = name
                return name
            self.explain("made up, and not sent, as it is the name of another user: {}", name)
        if statement.kind == "pseudonym":
            return Unknown(f"the pseudonyms of uid {self.owner_uid} are login names")
        return None

    def pseudonyms_for(self, statement: Statement) -> Iterable[bytes] | Unknown:
        """Return the owner's pseudonyms in their order. `Unknown`: they can't be made, which never tells the name."""
        if self.pseudonyms is None or isinstance(self.pseudonyms, Unknown):
            reason = "no key was read" if self.pseudonyms is None else self.pseudonyms.reason
            return Unknown(f"the pseudonym at {statement.rule}: {reason}")
        from .pseudonym import TURNS, Form  # imported by now, as the key was read

        if not self.asker:
            return Unknown(f"the pseudonym at {statement.rule}: who asks is not known")
        pseudonyms, form = self.pseudonyms, Form(tuple(map(str, statement.arguments)))
        return (pseudonyms.name(self.owner_uid, form, self.asker, turn) for turn in range(TURNS))

    def ask_server(self, statement: Statement) -> bytes | Unknown | None:
        """Return the name that another server gives, or None."""
        host, port, *proxy = statement.arguments
        if isinstance(port, Unknown):
            self.not_named(f"where to ask is not known: {port.reason}")
            return None
        if isinstance(host, HostName):
            addresses = self.resolve(host, 0)
            if isinstance(addresses, Unknown) and addresses.unasked:
                return addresses
            if isinstance(addresses, Unknown) or not addresses:
                reason = addresses.reason if isinstance(addresses, Unknown) else f"{quoted(host)} has no address"
                self.not_named(f"where to ask is not known: {reason}")
                return None
            host = unpack(addresses[0])
        assert isinstance(host, str) and isinstance(port, int)
        named = self.forward(host, port, *proxy)
        if isinstance(named, Unknown):
            return named
        if isinstance(named, str):
            self.not_named(f"the server at {host} port {port} {named}")
            return None
        self.explain("the server at {} port {} named {}", host, port, named)
        return named if self.is_sendable(named) else None

    def not_named(self, reason: str) -> None:
        """Keep why another server named nobody."""
        self.decision.forwarded = reason
        self.explain("{}", reason)

    def is_sendable(self, name: bytes) -> bool:
        if can_be_sent(name):
            return True
        self.explain("refused: {} can't be sent: it is empty, or holds a NUL, CR or LF", name)
        return False

    def send_if_allowed(self, name: bytes, capabilities: frozenset[str]) -> Decision:
        """Send a name if the owner may have it, be it from their file or from another server."""
        allowed = self.is_sendable(name) and self.is_allowed(name, capabilities)
        if isinstance(allowed, Unknown):
            return self.give_up(allowed)
        return self.send(name) if allowed else self.send_login()

    def is_allowed(self, name: bytes, capabilities: frozenset[str]) -> bool | Unknown:
        """Return whether the owner may have a name."""
        privileged = self.far_port < _PRIVILEGED
        if capabilities >= {"spoof", "spoof_all"} and ("spoof_privport" in capabilities or not privileged):
            # The name service does not have to be asked.
            self.explain("granted: {} may be sent, whoever has it", name)
            return True
        holder = self.uid_of(name)
        if isinstance(holder, Unknown):
            return holder
        if holder == self.owner_uid:
            self.explain("granted: {} is the owner's own name", name)
            return True
        mistaken = b"" if "spoof_all" in capabilities else self.mistaken_for(name, self.owner_uid)
        if isinstance(mistaken, Unknown) and mistaken.unasked:
            return mistaken
        if mistaken and not isinstance(mistaken, Unknown):
            self.decision.impersonated = ascii(mistaken)[1:]
            self.refuse("spoof_all", f"{quoted(mistaken)} is another user's name, and spoof_all is not allowed")
        if "spoof" not in capabilities:
            self.refuse("spoof", "spoof is not allowed")
        if privileged and "spoof_privport" not in capabilities:
            reason = f"the far port {self.far_port} is below {_PRIVILEGED}, and spoof_privport is not allowed"
            self.refuse("spoof_privport", reason)
        if self.decision.lacking:
            return False
        if isinstance(mistaken, Unknown):
            return mistaken
        self.explain("granted: {} may be sent", name)
        return True

    def refuse(self, capability: str, reason: str) -> None:
        self.decision.lacking.append(capability)
        self.explain("refused: {}", reason)

    def mistaken_for(self, name: bytes, uid: int) -> bytes | Unknown:
        """Return the login name that a client may take a name for, if it is not that of a uid; else ``b""``."""
        from .readings import another_user  # only where a name is sent that is not the owner's

        found = another_user(name, uid, self.uid_of)
        return found if isinstance(found, Unknown) else found[0] if found else b""

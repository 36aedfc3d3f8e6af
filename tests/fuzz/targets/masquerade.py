"""Does each line of a masquerade file say something, or what is wrong with it, in a time that grows with the file?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fuzz import files

from lookup.config import masquerade
from lookup.config.masquerade import Entry
from lookup.connection import ConfigError, IdentError, Unknown, can_be_sent, is_token

if TYPE_CHECKING:
    from lookup.config.blocks import HostName

files.without_a_name_service()

_HOSTS = "192.0.2.7", "2001:db8::7"
_ADDRESSES = {b"a": bytes((192, 0, 2, 7)), b"b": bytes.fromhex("20010db8000000000000000000000007")}


def check(data: bytes) -> None:
    """Read it, and look for two hosts in it."""
    began = time.thread_time()
    patched: Any = masquerade
    patched.read = lambda path, required: data
    lines = data.split(b"\n")
    for entry in masquerade.entries(data, "f"):
        wrong = entry if isinstance(entry, ConfigError) else entry.wrong
        if wrong is not None:
            files.look_at(data, wrong)
            continue
        assert isinstance(entry, Entry)
        assert can_be_sent(entry.name), entry.name
        assert entry.name in lines[entry.line - 1], entry.name
        assert all(map(is_token, entry.opsys.split(","))), entry.opsys
    for host in _HOSTS:
        try:
            found = masquerade.first(masquerade.entries(data, "f"), host, _resolve)
        except IdentError as failed:
            assert failed.detail.isprintable(), failed.detail
            continue
        assert found is None or (found.wrong is None and found.name), found
    count, errors, notices = masquerade.check("f", True)
    assert count <= len(lines)
    for error in errors:
        files.look_at(data, error)
    for notice in notices:
        files.look_at(data, notice)
    files.within(began, data)


def _resolve(name: HostName, octets: int) -> tuple[bytes, ...] | Unknown:
    """Return the address of some names; those of others are not known."""
    address = _ADDRESSES.get(bytes(name[:1]))
    if address is None:
        return Unknown("nobody was asked")
    return (address,) if len(address) == octets else ()

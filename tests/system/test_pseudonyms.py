"""Does each form of service send pseudonyms, and can only who has the key turn them back?"""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.hosts import until
from helpers.installed import readable_folder
from helpers.machine import AS_NOBODY, only_if_others_can_read_it, only_root
from helpers.pairs import Pair
from helpers.residents import system_file
from helpers.single_shot import Said, by_hand, handler
from helpers.warm import warming

if TYPE_CHECKING:
    from collections.abc import Iterator

FORCED = "default { default { force pseudonym } }"


@pytest.fixture(scope="module")
def config() -> Iterator[Path]:
    """A system file that has everybody told a pseudonym."""
    with system_file(FORCED) as path:
        yield path


@pytest.fixture(scope="module")
def key() -> Iterator[str]:
    """A key of root's, or of whoever runs this."""
    with readable_folder() as folder:
        path = folder / "identd.key"
        said = by_hand(b"", "--new-key", "--key", str(path), preexec_fn=lambda: os.umask(0o777))
        assert said == Said(f"a new key is in {path}\n".encode(), "", 0)
        yield str(path)


def told(reply: bytes) -> str:
    """Return the name in a reply."""
    assert b":USERID:UNIX:" in reply, reply
    return reply.decode().strip().rpartition(":")[2]


def revealed(name: str, *options: str) -> Said:
    """Turn a name back."""
    return by_hand(b"", "--reveal", name, *options)


def test_a_new_key(key: str) -> None:
    """It is 32 octets that only its user can read, and never written over another file."""
    status = os.stat(key)
    assert (stat.S_IMODE(status.st_mode), status.st_size, status.st_uid) == (0o400, 32, os.geteuid())
    before = Path(key).read_bytes()
    again = by_hand(b"", "--new-key", "--key", key)
    assert (again.stdout, again.status) == (b"", 1)
    assert "File exists" in again.stderr and Path(key).read_bytes() == before


def test_a_query_by_hand_and_back(config: Path, key: str, pair: Pair) -> None:
    """The name is the same each time, and the key turns it back: login name first, status 0; another is nobody's: 1."""
    options = ("-C", str(config), "--key", key)
    first, again = (by_hand(pair.query + b"\n", *options) for _ in range(2))
    assert first.stdout == again.stdout
    name = told(first.stdout)
    assert len(name) == 9 and name.isalnum()
    back = revealed(name, "--key", key)
    assert (back.stderr, back.status) == ("", 0)
    assert back.stdout.decode().endswith(f" uid {os.getuid()}\n")
    assert revealed("nobodysx", "--key", key) == Said(b"", "", 1)
    for other in ("", "a", "é" * 9, "a" * 50, "a" * 300):
        assert revealed(other, "--key", key) == Said(b"", "", 1)


def test_what_has_to_be_known(key: str, pair: Pair) -> None:
    """A name for one asker and one day is turned back by who says which; the reply says it was one of these."""
    with system_file("default { default { force pseudonym per-asker daily } }") as config:
        ends = ("--server-address", "127.0.0.1", "--client-address", "127.0.0.1")
        name = told(by_hand(pair.query + b"\n", "-C", str(config), "--key", key, *ends).stdout)
    from lookup.config.pseudonym import today

    whole = revealed(name, "--key", key, "--asker", "127.0.0.1", "--date", today())
    assert whole.stdout.decode().endswith(f" uid {os.getuid()} per-asker daily\n")
    assert revealed(name, "--key", key, "--asker", "127.0.0.1").status == 1
    assert revealed(name, "--key", key, "--asker", "127.0.0.2", "--date", today()).status == 1
    assert revealed(name, "--key", key, "--date", "2026-2-30").status == 2


def test_root_reads_it_before_it_is_nobody(config: Path, key: str, pair: Pair) -> None:
    """A process for one query, one that is to become another user, and the warm one: all send the same name."""
    only_root()
    only_if_others_can_read_it()
    options = ("-C", str(config), "--key", key)
    name = told(by_hand(pair.query + b"\n", *options).stdout)
    with handler(*options) as served:
        assert told(served.ask(pair.query + b"\r\n")) == name
    with handler(*options, "--user", "nobody") as served:
        assert told(served.ask(pair.query + b"\r\n")) == name
    with warming(*options) as warm:
        assert told(warm.ask(pair.query + b"\r\n")) == name


def test_a_rule_that_comes_later(key: str, pair: Pair) -> None:
    """The warm process has the key by then, though it could not read it any more."""
    only_root()
    with system_file("") as config, warming("-C", str(config), "--key", key) as warm:
        assert b":USERID:UNIX:" in warm.ask(pair.query + b"\r\n")
        config.write_text(FORCED)
        warm.process.send_signal(signal.SIGHUP)
        until(lambda: len(told(warm.ask(pair.query + b"\r\n"))) == 9)
        assert revealed(told(warm.ask(pair.query + b"\r\n")), "--key", key).status == 0


def test_nobody_is_refused(config: Path, key: str, pair: Pair) -> None:
    """Whoever starts as nobody sends UNKNOWN-ERROR, never the login name, and the log says why."""
    only_root()
    only_if_others_can_read_it()
    with handler("-C", str(config), "--key", key, "-S", **AS_NOBODY) as served:
        assert served.ask(pair.query + b"\r\n").endswith(b":ERROR:UNKNOWN-ERROR\r\n")
        assert "not for nobody" in served.log()


def test_no_key(config: Path, pair: Pair) -> None:
    """Then nobody is named, --explain says what is missing, and --check calls it an error."""
    options = ("-C", str(config), "--key", "/nonexistent/identd.key")
    said = by_hand(pair.query + b"\n", *options)
    assert said.stdout.endswith(b":ERROR:UNKNOWN-ERROR\r\n")
    assert "identd --new-key" in said.stderr
    explained = by_hand(b"", "--explain", pair.query.decode().strip(), *options)
    assert b"why      the pseudonym at" in explained.stdout
    assert explained.stdout.strip().endswith(b":ERROR:UNKNOWN-ERROR")
    checked = by_hand(b"", "--check", *options)
    assert (b"error: pseudonyms are UNKNOWN-ERROR: there is no key" in checked.stdout, checked.status) == (True, 1)


def test_check_and_explain(config: Path, key: str, pair: Pair) -> None:
    """With a key, one names it, the other says what was made up; both end well."""
    options = ("-C", str(config), "--key", key)
    checked = by_hand(b"", "--check", *options)
    assert (f"key      {key}\n".encode() in checked.stdout, checked.status) == (True, 0)
    name = told(by_hand(pair.query + b"\n", *options).stdout)
    explained = by_hand(b"", "--explain", pair.query.decode().strip(), *options).stdout.decode()
    assert f'made up: "{name}"' in explained and explained.strip().endswith(f":{name}")


@pytest.mark.parametrize("rule", ["force pseudonym 12", "allow pseudonym force pseudonym 10"])
def test_long_names_are_warned_of(key: str, rule: str) -> None:
    """IRC servers cut them."""
    with system_file(f"default {{ default {{ {rule} }} }}") as config:
        checked = by_hand(b"", "--check", "-C", str(config), "--key", key)
    assert b"IRC servers cut names" in checked.stdout and checked.status == 0

"""Why was nobody named?  The refusals, and the names that Twisted has for them."""

from __future__ import annotations

import pytest
from helpers.machine import skip

from lookup import errors

SENT = {
    "IdentError": "UNKNOWN-ERROR",
    "NoUser": "NO-USER",
    "InvalidPort": "INVALID-PORT",
    "HiddenUser": "HIDDEN-USER",
}


@pytest.mark.parametrize("name", SENT)
def test_what_is_sent(name: str) -> None:
    """`str` of a refusal is the error-type of RFC 1413 section 6, whatever its detail."""
    error = getattr(errors, name)("the detail", 1000)
    assert str(error) == error.identDescription == SENT[name]


@pytest.mark.parametrize("name", SENT)
def test_what_is_logged(name: str) -> None:
    """The detail and the uid are there for the log, and may be left out."""
    kind = getattr(errors, name)
    error = kind("the detail", 1000)
    assert (error.detail, error.uid, error.args) == ("the detail", 1000, ("the detail",))
    assert (kind().detail, kind().uid) == ("", None)
    assert "the detail" not in str(error)


@pytest.mark.parametrize("name", [name for name in SENT if name != "IdentError"])
def test_every_refusal_is_an_ident_error(name: str) -> None:
    """Whoever handles `IdentError` handles all of them, and none of them is another."""
    kind = getattr(errors, name)
    assert kind.__bases__ == (errors.IdentError,)


@pytest.mark.parametrize("name", SENT)
def test_twisted_has_the_same_names(name: str) -> None:
    """Each name and identDescription is that of `twisted.protocols.ident`."""
    try:
        from twisted.protocols import ident
    except ImportError:
        skip("needs twisted")
    assert getattr(ident, name).identDescription == SENT[name]

"""Is the form of --format what clients get in place of the login name?"""

from __future__ import annotations

import grp
import os

import pytest
from helpers.pairs import Pair, me
from helpers.residents import system_file
from helpers.single_shot import by_hand, handler
from helpers.warm import warming


def test_the_options(pair: Pair) -> None:
    """A query over a connection and one by hand; -n is the uid; hidden stays hidden."""
    query = pair.query + b"\r\n"
    with handler("-F", "%u-%U") as served:
        assert served.ask(query).decode().endswith(f":USERID:UNIX:{me()}-{os.getuid()}\r\n")
    assert by_hand(query, "-n").stdout.decode().endswith(f":USERID:UNIX:{os.getuid()}\r\n")
    with system_file("default { default { force hide } }") as config:
        assert by_hand(query, "-n", "-C", str(config)).stdout.endswith(b":ERROR:HIDDEN-USER\r\n")


def test_the_warm_process(pair: Pair) -> None:
    """The first query has the name service asked, the next one is answered by what is remembered."""
    with warming("-F", "%u-%g") as warm:
        group = grp.getgrgid(os.getgid()).gr_name
        for _ in range(2):
            assert warm.ask(pair.query + b"\r\n").decode().endswith(f":USERID:UNIX:{me()}-{group}\r\n")


def test_it_is_explained(pair: Pair) -> None:
    """The step that decided is the form."""
    explained = by_hand(b"", "--format", "%U", "--explain", pair.query.decode().strip()).stdout.decode()
    assert f'form     %U makes "{os.getuid()}" of it\n' in explained
    assert explained.strip().endswith(f":{os.getuid()}")


@pytest.mark.parametrize("form", ["%x", "%", "", "a\nb"])
def test_what_is_no_form(form: str) -> None:
    """It is an error at the start."""
    said = by_hand(b"1,2\n", "-F", form)
    assert (said.stdout, said.status) == (b"", 2)
    assert "-F" in said.stderr

"""Do thousands of blocks that say the same come to what each says by itself?"""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from lookup.config.grammar import _SystemFile
from lookup.connection import ConfigError

NAMES = st.sampled_from(
    [b"alice", b"bob", b"b2", b"7", b"+7", b"user", b"HIDE", b'"user"', b"default", b"a-b", b"{", b""]
)
BODIES = st.sampled_from([
    b"{ default { deny spoof } }", b"{default{deny spoof}}", b"{ default { allow hide } }",
    b"{ default { force hide } }", b"{ to 192.0.2.1 { allow hide } default { deny hide } }",
    b"{ fport 7:5 { allow hide } }", b"{ default { allow noident } }", b"{ default { default_hide } }",
    b"{ default { allow } }", b"{ }", b"{ default { deny spoof }",
])  # fmt: skip
OTHERS = st.sampled_from(
    [b"default { default { allow hide } }", b"default { default { default_hide } }", b"# words", b"}"]
)


def outcome(data: bytes, takes_each: bool) -> Any:
    """Return what a file comes to, or its error. :param takes_each: whether each block is read for itself."""
    file = _SystemFile(data, "f")
    file.takes_each = takes_each
    try:
        parsed = file.parse(lambda names: {name: index for index, name in enumerate(sorted(names))})
    except ConfigError as error:
        return str(error)
    rows = [
        (
            section.name, section.number, section.rule,
            [(one.where.key, one.capabilities, str(one.force), str(one.instead), one.rule) for one in section.ranges],
        )
        for section in parsed.sections
    ]  # fmt: skip
    return rows, [str(notice) for notice in file.notices], parsed.older, parsed.needs_key, len(parsed.users)


@given(
    blocks=st.lists(
        st.one_of(
            st.tuples(st.sampled_from([b"user", b"User"]), NAMES, BODIES).map(b" ".join),
            st.tuples(st.just(b"user alice"), BODIES).map(b" ".join),
            OTHERS,
        ),
        max_size=9,
    )
)
@example(blocks=[b"user %s { default { deny spoof } }" % name for name in (b"a", b"b", b"hide", b"c")])
@example(blocks=[b"user a { default { deny spoof } }", b"default { default { allow hide } }"] * 2)
@example(blocks=[b"user a { default { deny spoof } }", b"user b { default { deny spoof } } }"])
def test_blocks_that_follow_each_other(blocks: list[bytes]) -> None:
    """Users, places, capabilities, notices and errors are those of blocks that are read one by one."""
    data = b"\n".join(blocks)
    assert outcome(data, takes_each=False) == outcome(data, takes_each=True)

"""Do thousands of blocks that say the same come to what each says by itself?"""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from lookup.config.grammar import _SystemFile
from lookup.connection import ConfigError

NAMES = st.sampled_from([
    b"alice", b"bob", b"b2", b"7", b"+7", b"user", b"HIDE", b'"user"', b"default", b"a-b", b"{", b"", b'"alice"',
    b'"7"', b'"a b"', b'""', b'"', b"a.b", b"-x", b'"-7"', b"0007", b"1234567890", b'"a\\x62"', b'"b\0"', b'"b\\0"',
    b"0x7", b"a/b", b"/",
])
REPLIES = st.sampled_from(
    [b"x", b"y1", b'"x y"', b'"user"', b"USER", b'"a\\x62"', b'"', b'""', b"x-y", b"x/y", b"/", b"x }", b"x y", b"\0"]
)
BODIES = st.one_of(
    st.sampled_from([
        b"{ default { deny spoof } }", b"{default{deny spoof}}", b"{ default { allow hide } }",
        b"{ default { force hide } }", b"{ to 192.0.2.1 { allow hide } default { deny hide } }",
        b"{ fport 7:5 { allow hide } }", b"{ default { allow noident } }", b"{ default { default_hide } }",
        b"{ default { allow } }", b"{ }", b"{ default { deny spoof }", b"{ default { force pseudonym 9 } }",
        b"{ fport 1 { force forward 192.0.2.1 113 } fport 2 { allow hide allow spoof } }",
    ]),
    REPLIES.map(lambda reply: b"{ default { force reply %s } }" % reply),
    REPLIES.map(lambda reply: b"{ default { allow hide default_reply %s } }" % reply),
    st.tuples(REPLIES, REPLIES).map(lambda replies: b"{ default { force reply %s %s } }" % replies),
    st.tuples(REPLIES, REPLIES).map(
        lambda replies: b"{ lport 1 { force reply %s } from 192.0.2.1 { deny spoof force reply %s } }" % replies
    ),
)  # fmt: skip
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
            [
                (
                    one.where.key, one.capabilities, str(one.force), one.force and (one.force.rule, one.force.at),
                    str(one.instead), one.instead and one.instead.rule, one.rule, one.at,
                )
                for one in section.ranges
            ],
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
@example(blocks=[b'user "%s" { fport 1 { force reply x%s "%s" } }' % (name, name, name) for name in (b"a", b"b", b"c")])
@example(blocks=[b"user a { default { deny spoof } }", b"default { default { allow hide } }"] * 2)
@example(blocks=[b"user a { default { deny spoof } }", b"user b { default { deny spoof } } }"])
def test_blocks_that_follow_each_other(blocks: list[bytes]) -> None:
    """Users, places, capabilities, notices and errors are those of blocks that are read one by one."""
    data = b"\n".join(blocks)
    assert outcome(data, takes_each=False) == outcome(data, takes_each=True)

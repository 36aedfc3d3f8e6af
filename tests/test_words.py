"""Is a configuration file cut into its words, and where does each stand?"""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lookup.config import words
from lookup.config.words import Words, shown
from lookup.connection import ConfigError

#: What tells words apart, and what looks as if it did.
SOUP = [
    b" ", b"\n", b"\r\n", b"\t", b"{", b"}", b'"', b"\\", b"#", b"/", b"/*", b"*/", b"//", b"word", b'"text"', b"\\x41",
    b"\\8", b"\\400", b"\0", b"\xff", b"\x0c", b"x" * 40, b"/*/",
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "tokens"),
    [
        (b"", []),
        (b" \t\r\n", []),
        (b"a b\tc\nd\re", [b"a", b"b", b"c", b"d", b"e"]),
        (b"a\x0cb c\x0bd", [b"a\x0cb", b"c\x0bd"]),
        (b"a{b}c", [b"a", b"{", b"b", b"}", b"c"]),
        (b"\xef\xbb\xbfa", [b"a"]),
        (b"a\xef\xbb\xbf", [b"a\xef\xbb\xbf"]),
        (b"#c\na#b #c", [b"a#b"]),
        (b"{#c\n}#", [b"{", b"}"]),
        (b"/**/a/*b*/ /* c\n * d */ e", [b"a/*b*/", b"e"]),
        (b"/* /* */ a */", [b"a", b"*/"]),
        (b"/*/ a /*/ b", [b"b"]),
        (b"//x /#y /\"z / a", [b"//x", b"/#y", b'/"z', b"/", b"a"]),
        (b'"a b"c "d', [b'"a b"', b"c", b'"d']),
        (b'a"b "c"d', [b'a"b', b'"c"', b"d"]),
        (b'"a\\"b" "\\\\" "', [b'"a\\"b"', b'"\\\\"', b'"']),
        (b'"a\nb"', [b'"a', b'b"']),
    ],
)
def test_tokens(data: bytes, tokens: list[bytes]) -> None:
    """Each kind of word, comment and separator is told from the others."""
    assert Words(data, "f").tokens == [*tokens, b""]


@pytest.mark.parametrize(
    ("token", "text"),
    [
        (b"word", b"word"),
        (b"a\\x41", b"a\\x41"),
        (b'""', b""),
        (b'"a b"', b"a b"),
        (b'"\\x41\\102\\t\\q\\"\\\\"', b'AB\tq"\\'),
        (b'"\\x4g\\X41\\xg\\x"', b"\x04gAxgx"),
        (b'"\\377\\0\\08\\1234"', b"\xff\0\08S4"),
        (b'"\\a\\b\\f\\n\\r\\t\\v\\e"', b"\a\b\f\n\r\t\ve"),
        (b'"\\\xff\\\r"', b"\xff\r"),
        (b'"\xc3\xa9\0"', b"\xc3\xa9\0"),
        (b"//", b"//"),
    ],
)
def test_text(token: bytes, text: bytes) -> None:
    """Strings lose their quotes and escapes; words stand for themselves."""
    assert Words(token, "f").text(0) == text


@pytest.mark.parametrize(
    ("data", "column", "reason"),
    [
        *(
            (data, 3, "closing quote")
            for data in (b'a "b', b'a "', b'a "b\nc"', b'a "b\\', b'a "b\\\nc"', b'a "b\\"')
        ),
        (b'a "b\\400"', 5, "at most \\377"),
        (b'a "\\8"', 4, "octal digit"),
        (b'a "\\9\\400"', 4, "octal digit"),
        (b"a /", 3, "slash alone"),
        (b"a / b", 3, "slash alone"),
        (b"a /{", 3, "slash alone"),
    ],
)
def test_broken_words(data: bytes, column: int, reason: str) -> None:
    """A broken string, an escape for no octet and a lone slash are errors where they stand."""
    with pytest.raises(ConfigError) as error:
        Words(data, "f").text(1)
    assert (error.value.path, error.value.line, error.value.column) == ("f", 1, column)
    assert reason in error.value.reason
    assert str(error.value) == f"f:1:{column}: {error.value.reason}"


def test_a_broken_string_says_so_wherever_it_stands() -> None:
    """Whatever was expected in its place, a broken string is what is wrong."""
    with pytest.raises(ConfigError, match="closing quote"):
        Words(b'"', "f").fail(0, "something else")


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"a /* b", (1, 3)),
        (b"a\n /*/", (2, 2)),
        (b"/*", (1, 1)),
        (b"x\n" * 9000 + b"/* no end\n" * 9000, (9001, 1)),
        (b"/* an end */ /* none", (1, 14)),
    ],
)
def test_an_unterminated_comment_is_noticed(data: bytes, place: tuple[int, int]) -> None:
    """A comment without an end swallows the rest, with a notice that tells where it begins."""
    (notice,) = Words(data, "f").notices
    assert (notice.line, notice.column) == place
    assert str(notice) == f"f:{place[0]}:{place[1]}: {notice.reason}"


@given(st.binary())
def test_any_octets_are_words(data: bytes) -> None:
    """No octets are an error before somebody asks what they stand for, and all but separators are in a token."""
    tokens = Words(data, "f").tokens
    assert tokens[-1] == b""
    assert all(tokens[:-1])
    assert sum(map(len, tokens)) <= len(data)


@given(st.lists(st.sampled_from(SOUP)).map(b"".join), st.integers(0, 30))
def test_pieces_make_no_difference(data: bytes, piece: int) -> None:
    """Words and their places are the same however small the pieces are in which a file is read."""
    whole = Words(data, "f")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "_PIECE", piece)
        pieces = Words(data, "f")
    assert pieces.tokens == whole.tokens
    assert [str(notice) for notice in pieces.notices] == [str(notice) for notice in whole.notices]
    for index, token in enumerate(whole.tokens):
        line, column = pieces.place(index)
        assert (line, column) == whole.place(index)
        # The place is where the token stands.
        offset = sum(map(len, data.split(b"\n")[: line - 1])) + line - 1 + column - 1
        assert data.startswith(token, offset)


@given(st.lists(st.sampled_from(SOUP)).map(b"".join))
def test_text_or_error(data: bytes) -> None:
    """Every token stands for octets or is an error inside the file."""
    parsed = Words(data, "f")
    for index in range(len(parsed.tokens) - 1):
        try:
            parsed.text(index)
        except ConfigError as error:
            assert 1 <= error.line <= data.count(b"\n") + 1
            assert 1 <= error.column <= len(data.split(b"\n")[error.line - 1]) + 1


def test_shown() -> None:
    """A token is shown in ASCII, on one line, and not at length."""
    assert shown(b"") == "the end of the file"
    assert shown(b'"it\'s"\xff\0') == '"it\'s"\\xff\\x00'
    assert shown(b"x" * 100) == "x" * 40 + "..."


_PIECES = st.sampled_from([
    b'"', b"\\", b"\n", b"#", b"/", b"*", b"/*", b"*/", b"{", b"}", b" ", b"\t", b"\r", b"\v", b"\f", b"a", b"reply",
    b"\0", b"\xff", b"\x1c", b"\x85",
])  # fmt: skip


@given(data=st.lists(st.one_of(_PIECES, st.binary(max_size=3)), max_size=30).map(b"".join), bounds=st.data())
def test_tokens_are_what_the_expression_takes(data: bytes, bounds: st.DataObject) -> None:
    """The tokenizer takes from any part of any octets what the expression does, which is the specification."""
    begin = bounds.draw(st.integers(0, len(data)))
    end = bounds.draw(st.integers(begin, len(data)))
    expected = re.compile(words.TOKEN).findall(data, begin, end)
    while expected and not expected[-1]:
        expected.pop()
    assert words.tokens(data, begin, end) == expected


@given(data=st.lists(st.one_of(_PIECES, st.binary(max_size=3)), max_size=40).map(b"".join))
@example(data=words.BYTE_ORDER_MARK + b"a")
def test_places_are_where_the_expression_finds_them(data: bytes) -> None:
    """Each token's line and column are those of where the expression begins to take it."""
    taken = words.Words(data, "f")
    begin = len(words.BYTE_ORDER_MARK) if data.startswith(words.BYTE_ORDER_MARK) else 0
    found = [match for match in re.compile(words.TOKEN).finditer(data, begin) if match[1]]
    starts = [match.start(1) for match in found if not match[1].startswith((b"#", b"/*"))]
    places = [(data.count(b"\n", 0, start) + 1, start - data.rfind(b"\n", 0, start)) for start in starts]
    assert [taken.place(index) for index in range(len(taken.tokens) - 1)] == places

"""Stop strings and incremental text: the same result however the text is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forerun.engine.text import StopStrings, TextStream
from tests.engine.harness import ByteDetokenizer


def first_stop(text: str, stops: list[str]) -> tuple[int, str] | None:
    """End and string of the match that ends first, the longest of those."""
    ends = [(end, stop) for end in range(len(text) + 1) for stop in stops if text[:end].endswith(stop)]
    return min(ends, key=lambda match: (match[0], -len(match[1])), default=None)


@given(
    pieces=st.lists(st.text("abc", max_size=4), max_size=8),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    include=st.booleans(),
)
def test_any_cut_of_the_text_gives_the_same_result(pieces: list[str], stops: list[str], include: bool) -> None:
    stream, shown, found = StopStrings(stops, include), "", None
    for piece in pieces:
        text, found = stream.push(piece)
        shown += text
        if found is not None:
            break
    else:
        assert not any(stream._held.endswith(stop) for stop in stops)
        shown += stream.flush()
    whole = "".join(pieces)
    match = first_stop(whole, stops)
    assert found == (match[1] if match else None)
    if match is None:
        assert shown == whole
    else:
        assert shown == whole[: match[0] if include else match[0] - len(match[1])]


@given(text=st.text("ab", max_size=12), stop=st.text("ab", min_size=1, max_size=4))
def test_nothing_is_shown_that_could_become_part_of_a_stop_string_and_nothing_else_is_held(
    text: str, stop: str
) -> None:
    stream, shown = StopStrings([stop], False), ""
    for letter in text:
        piece, found = stream.push(letter)
        shown += piece
        if found:
            return
    held = len(text) - len(shown)
    starts = [size for size in range(len(stop)) if text.endswith(stop[:size])]
    assert held == max(starts)


def test_a_stop_string_may_begin_but_not_end_in_the_unsearched_part() -> None:
    stream = StopStrings(["xy"], False)
    assert stream.push("xyx", search=False) == ("xy", None)
    assert stream.push("y") == ("", "xy")


@pytest.mark.parametrize("text", ["héllo wörld", "日本語", "🙂🙃", "a\u0301"])
def test_characters_come_out_whole(text: str) -> None:
    stream = TextStream(ByteDetokenizer(), (), False, 0)
    pieces = [stream.push(byte)[0] for byte in text.encode()]
    assert "".join(pieces) == text and "\ufffd" not in "".join(pieces)
    assert stream.finish() == ("", None)


def test_an_unfinished_character_shows_at_the_end_only() -> None:
    stream = TextStream(ByteDetokenizer(), ("zz",), False, 0)
    assert [stream.push(byte)[0] for byte in "é".encode()[:1]] == [""]
    assert stream.finish() == ("\ufffd", None)


def test_a_stop_string_inside_multi_byte_text() -> None:
    stream, shown = TextStream(ByteDetokenizer(), ("語。",), False, 0), ""
    for byte in "日本語。次".encode():
        piece, found = stream.push(byte)
        shown += piece
        if found:
            break
    assert (shown, found) == ("日本", "語。")

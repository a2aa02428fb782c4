"""What the router knows of prefixes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forerun.replicas.prefixes import MOST_PIECES, PIECE, Held, Namer, Piece

SYSTEM = {"role": "system", "content": "You are a careful assistant. " * 20}
FIRST = [SYSTEM, {"role": "user", "content": "Hello"}]
SECOND = [*FIRST, {"role": "assistant", "content": "word " * 200}, {"role": "user", "content": "And then?"}]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
BODY = st.dictionaries(
    st.sampled_from(["messages", "prompt", "input", "tools", "instructions", "n"]) | st.text(max_size=4), JSON
)


def pieces(body: dict[str, Any], salt: str = "", namer: Namer | None = None) -> list[Piece]:
    return (namer or NAMER).pieces(salt, body)


NAMER = Namer(b"secret")


def held(*bodies: dict[str, Any], salt: str = "") -> Held:
    found = Held(1 << 20)
    for body in bodies:
        found.note(pieces(body, salt))
    return found


def test_the_next_turn_is_held_but_for_what_is_new() -> None:
    share = held({"messages": FIRST}).share(pieces({"messages": SECOND}))
    assert 0.9 < share < 1
    assert held({"messages": SECOND}).share(pieces({"messages": FIRST})) == 1


def test_another_conversation_shares_the_beginning_alone() -> None:
    other = [SYSTEM, {"role": "user", "content": "Good morning"}]
    assert 0.5 < held({"messages": FIRST}).share(pieces({"messages": other})) < 1
    strange = [{"role": "system", "content": "x" + SYSTEM["content"]}, *FIRST[1:]]
    assert held({"messages": FIRST}).share(pieces({"messages": strange})) == 0


def test_an_answer_counts_only_behind_its_prompt() -> None:
    moved = [{"role": "user", "content": "Goodbye"}, *SECOND[2:]]
    assert held({"messages": FIRST}).share(pieces({"messages": moved})) == 0
    assert held({"prompt": "x"}).share(pieces({"messages": [SECOND[2]]})) == 0


@pytest.mark.parametrize("body", [{"messages": FIRST}, {"prompt": "a" * 500}, {"prompt": [1, 2, 3] * 100}])
def test_a_salt_tells_nothing_of_another(body: dict[str, Any]) -> None:
    mine, other, none = (pieces(body, salt) for salt in ("user:a", "user:b", ""))
    assert not {piece.name for piece in mine} & {piece.name for piece in other + none}
    assert held(body, salt="user:a").share(other) == 0


def test_two_fronts_have_other_names() -> None:
    assert pieces({"prompt": "a"}, namer=Namer())[0].name != pieces({"prompt": "a"}, namer=Namer())[0].name


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"prompt": "a" * 1000}, {"prompt": "a" * 1000 + "b"}),
        ({"prompt": ["a" * 1000, "z"]}, {"prompt": "a" * 1000}),
        ({"prompt": [7] * 1000}, {"prompt": [7] * 1000 + [8]}),
        ({"prompt": [[7] * 1000]}, {"prompt": [7] * 1000}),
        ({"messages": [FIRST, SECOND]}, {"messages": FIRST}),
        ({"input": "a" * 1000}, {"input": "a" * 1000 + "b"}),
    ],
)
def test_forms_of_prompts(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert held(one).share(pieces(other)) > 0.85


def test_tools_stand_before_the_conversation() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert held({"messages": FIRST}).share(pieces({"messages": FIRST, "tools": tools})) == 0
    both = {"messages": FIRST, "tools": tools}
    assert held(both).share(pieces({**both, "messages": SECOND})) > 0.9


@given(BODY, st.text(max_size=5))
def test_any_json_has_pieces(body: dict[str, Any], salt: str) -> None:
    found = pieces(body, salt)
    assert all(1 <= piece.chars <= PIECE for piece in found)
    memory = Held(0)
    assert memory.share(found) == 0 or not found or found[0].answer
    memory.note(found)
    assert memory.share(found) == pytest.approx(1) or not found


def test_memory_is_bounded_and_forgets_ends_before_beginnings() -> None:
    memory = Held(0)
    long = pieces({"prompt": "".join(f"{number:08d}" for number in range(MOST_PIECES * PIECE // 8 + 1000))})
    assert len(long) == MOST_PIECES > Held.LEAST
    memory.note(long)
    assert len(memory) == Held.LEAST and memory.share(long) == pytest.approx(Held.LEAST / MOST_PIECES)
    memory.note(pieces({"prompt": "new"}))
    assert memory.share(long[: Held.LEAST - 1]) == 1 and memory.share(pieces({"prompt": "new"})) == 1
    assert len(memory) == Held.LEAST
    memory.clear()
    assert len(memory) == memory.share(long) == 0

from __future__ import annotations

import json

import pytest

from forerun.bench.records import Outcome
from forerun.bench.sse import events, read_answer


def answered(*arrivals: tuple[float, bytes]) -> Outcome:
    outcome = Outcome(0, 0, 8, None, sent=1.0)
    read_answer(outcome, arrivals, start=10.0)
    return outcome


def chat(text: str) -> bytes:
    return b'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n' % text.encode()


def test_an_event_has_the_time_of_the_bytes_that_complete_it() -> None:
    parts = [(1.0, b"data: a"), (2.0, b"b\n"), (3.0, b"\ndata: c\r\n\r"), (4.0, b"\n: ping\n\ndata: d\n\n")]
    assert list(events(parts)) == [(3.0, b"ab"), (4.0, b"c"), (4.0, b"d")]


def test_texts_times_usage_and_reason() -> None:
    end = b'data: {"choices": [{"delta": {}, "finish_reason": "length"}], "usage": {"completion_tokens": 3}}\n\n'
    found = answered((11.5, chat("x") + chat("y")), (12.0, chat("z")), (12.5, end + b"data: [DONE]\n\n"))
    assert (found.text, found.events, found.finish_reason) == ("xyz", [1.5, 1.5, 2.0], "length")
    assert found.usage == {"completion_tokens": 3} and found.good and found.ttft == 0.5


def test_completions_reasoning_and_empty_pieces() -> None:
    role = b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
    think = b'data: {"choices": [{"delta": {"reasoning_content": "hm"}}]}\n\n'
    plain = b'data: {"choices": [{"text": "so"}]}\n\n'
    found = answered((11.0, role), (12.0, think), (13.0, plain + b"data: [DONE]\n\n"))
    assert (found.text, found.events) == ("hmso", [2.0, 3.0])


STRANGE = [b"5", b"[]", b"null", b"[" * 100_000, b'{"choices": 5}', b'{"choices": [5]}', b'{"usage": [1]}']


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (chat("x"), -1, "without [DONE]"),
        (b"data: {broken\n\n", -1, "not JSON"),
        (b'data: {"error": {"message": "full", "code": 503}}\n\n', 503, "full"),
        (b'data: {"error": "gone"}\n\n', -1, "gone"),
        *[(b"data: %s\n\n" % data, -1, "not JSON of an answer") for data in STRANGE],
    ],
)
def test_what_is_no_answer_is_an_error(data: bytes, code: int, words: str) -> None:
    found = answered((11.0, data))
    assert not found.good and found.error_code == code and words in found.error_message


def test_usage_holds_counts_alone() -> None:
    counts = {"completion_tokens": "many", "prompt_tokens": 4, "a_details": 5, "b_details": {"cached_tokens": 1e9}}
    found = answered((11.0, b"data: %s\n\n" % json.dumps({"usage": counts}).encode()))
    assert found.usage == {"prompt_tokens": 4, "b_details": {}}


def test_an_answer_without_text_is_not_good() -> None:
    assert not answered((11.0, b"data: [DONE]\n\n")).good

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import pytest

from forerun.bench.load import Result
from forerun.bench.metrics import llmperf_metrics, summary, true_metrics
from forerun.bench.records import Outcome
from forerun.bench.sse import AnswerReader, EventStream, has_news


def answered(*arrivals: tuple[float, bytes]) -> Outcome:
    reader = AnswerReader()
    for arrival in arrivals:
        reader.feed(*arrival)
    outcome = Outcome(0, 0, 8, None, sent=1.0)
    reader.fill(outcome, start=10.0, kind="text/html")
    return outcome


def events(arrivals: Sequence[tuple[float, bytes]]) -> list[tuple[float, bytes]]:
    stream = EventStream()
    found = [(moment, event) for moment, data in arrivals for event in stream.feed(data)]
    return [*found, (arrivals[-1][0], end)] if (end := stream.end()) else found


def chat(text: str) -> bytes:
    return b'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n' % text.encode()


def test_an_event_has_the_time_of_the_bytes_that_complete_it() -> None:
    parts = [(1.0, b"data: a"), (2.0, b"b\n"), (3.0, b"\ndata: c\r\n\r"), (4.0, b"\n: ping\n\ndata: d\n\n")]
    assert events(parts) == [(3.0, b"ab"), (3.0, b"c"), (4.0, b"d")]


STREAM = b"\n".join(
    [b": hi", b"", b"event: x", b"data: a", b"data: b", b"", b"", b"data:c", b"", b"data: [DONE]", b"", b""]
)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_lines_end_as_the_standard_lets_them_wherever_they_are_cut(mark: bytes, end: bytes, size: int) -> None:
    data = mark + STREAM.replace(b"\n", end)
    arrivals = [(float(at), data[at : at + size]) for at in range(0, len(data), size)]
    found = events(arrivals)
    assert [text for _, text in found] == [b"a\nb", b"c", b"[DONE]"]
    first = data.index(b"b" + end + end) + 1 + len(end)  # where the blank line begins
    assert found[0][0] == first // size * size
    assert (events([part for arrival in arrivals for part in (arrival, (arrival[0], b""))])) == found


@pytest.mark.parametrize("end", [b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]\r\n"])
def test_done_needs_no_blank_line(end: bytes) -> None:
    assert answered((11.0, chat("x")), (12.0, end)).good
    assert answered((11.0, chat("x") + b'data: {"cho')).error_message == "the stream ended without [DONE]"


def test_a_long_event_takes_no_longer_than_it_is_long() -> None:
    pieces = [b'data: {"choices": [{"delta": {"content": "', *[b"a" * 256] * 80_000, b'"}}]}\n\ndata: [DONE]\n\n']
    began = time.process_time()
    found = answered(*[(11.0, piece) for piece in pieces])
    assert found.good and len(found.text) == 256 * 80_000
    assert time.process_time() - began < 10  # joined anew for every piece: minutes


def test_texts_times_usage_and_reason() -> None:
    end = b'data: {"choices": [{"delta": {}, "finish_reason": "length"}], "usage": {"completion_tokens": 3}}\n\n'
    found = answered((11.5, chat("x") + chat("y")), (12.0, chat("z")), (12.5, end + b"data: [DONE]\n\n"))
    assert (found.text, found.events, found.finish_reason) == ("xyz", [1.5, 1.5, 2.0], "length")
    assert found.usage == {"completion_tokens": 3} and found.good and found.ttft == 0.5


def test_completions_reasoning_and_empty_pieces() -> None:
    role = b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
    think = b'data: {"choices": [{"delta": {"reasoning_content": "hm"}}]}\n\n'
    newer = b'data: {"choices": [{"delta": {"reasoning": "m"}}]}\n\n'
    both = b'data: {"choices": [{"delta": {"reasoning": "!", "reasoning_content": "!"}}]}\n\n'
    plain = b'data: {"choices": [{"text": "so"}]}\n\n'
    found = answered((11.0, role), (12.0, think), (12.5, newer + both), (13.0, plain + b"data: [DONE]\n\n"))
    assert (found.text, found.events) == ("hmm!so", [2.0, 2.5, 2.5, 3.0])


STRANGE = [b"5", b"[]", b"null", b"[" * 100_000, b'{"choices": 5}', b'{"choices": [5]}', b'{"usage": [1]}']

CALLS = [
    b'data: {"choices": [{"delta": {"tool_calls": [{%s}]}}]}\n\ndata: [DONE]\n\n',
    b'data: {"choices": [{"delta": {"function_call": {%s}}}]}\n\ndata: [DONE]\n\n',
]


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (chat("x"), -1, "without [DONE]"),
        (b"data: {broken\n\n", -1, "not JSON"),
        (b'data: {"error": {"message": "full", "code": 503}}\n\n', 503, "full"),
        (b'data: {"error": "gone"}\n\n', -1, "gone"),
        (b'data: {"error": "a\\n\\u001b[2Jb"}\n\n', -1, r"a\n\x1b[2Jb"),
        (b"<html>login", -1, "(text/html) is no stream of events: b'<html>login'"),
        (b'{"choices": [{"message": {"content": "x"}}]}', -1, "is no stream of events"),
        (b"", -1, "is no stream of events"),
        *[(call % b'"function": {"name": "f"}', -1, "has calls of tools and no text") for call in CALLS],
        (b'data: {"error": {"message": null, "code": true}}\n\n', -1, "'code': True"),
        (b'data: {"error": {"message": "b", "code": 1%s}}\n\n' % (b"0" * 300), -1, "b"),
        (chat("x") + b'data: {"object": "error", "message": "died", "code": 500}\n\ndata: [DONE]\n\n', 500, "died"),
        *[(b"data: %s\n\n" % data, -1, "not JSON of an answer") for data in STRANGE],
    ],
)
def test_what_is_no_answer_is_an_error(data: bytes, code: int, words: str) -> None:
    found = answered((11.0, data))
    assert not found.good and found.error_code == code and words in found.error_message


@pytest.mark.parametrize("nothing", [b"null", b'""', b"{}", b"false"])
def test_an_error_that_is_none_is_none(nothing: bytes) -> None:
    chunk = b'data: {"error": %s, "choices": [{"delta": {"content": "x"}}]}\n\ndata: [DONE]\n\n' % nothing
    assert answered((11.0, chunk)).good


@pytest.mark.parametrize("data", [b": ping\n\n", b":\r\n\r\n", b"\n", b"\r\n: a\n: b\n\n", b""])
def test_comments_are_no_news(data: bytes) -> None:
    assert not has_news(data)
    assert has_news(data + b"data: x\n\n") and has_news(b'd"}\n\n' + data)


def test_usage_holds_counts_alone() -> None:
    counts = {"completion_tokens": "many", "prompt_tokens": 4, "a_details": 5, "b_details": {"cached_tokens": 1e9}}
    found = answered((11.0, b"data: %s\n\n" % json.dumps({"usage": counts}).encode()))
    assert found.usage == {"prompt_tokens": 4, "b_details": {}}


@pytest.mark.parametrize("place", ["", "prompt_tokens_details", "completion_tokens_details"])
@pytest.mark.parametrize("value", [{"b": 2}, {}, [1], "3", True, -1, 1.5, None, {"prompt_tokens": {"x": 1}}])
def test_usage_of_any_form_is_computed_with(place: str, value: object) -> None:
    names = ("prompt_tokens", "completion_tokens", "cached_tokens", "accepted_prediction_tokens")
    counts = dict.fromkeys((*names, "rejected_prediction_tokens"), value)
    chunk = {"choices": [{"text": "x"}], "usage": {place: counts} if place else counts}
    found = answered((11.0, b"data: %s\n\ndata: [DONE]\n\n" % json.dumps(chunk).encode()))
    found.ended = 2.0
    assert llmperf_metrics(found, None)["number_output_tokens"] == 1
    told = true_metrics(found)
    assert all(told[name] is None for name in ("input_tokens", "output_tokens", "cached_tokens"))
    assert summary(Result([found]), {})["acceptance"] is None


def test_calls_of_tools_beside_text_are_no_error() -> None:
    assert answered((11.0, chat("x") + CALLS[0] % b"")).good


def test_an_answer_without_text_is_not_good() -> None:
    assert not answered((11.0, b"data: [DONE]\n\n")).good

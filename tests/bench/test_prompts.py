from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from forerun.bench.datasets import DATASETS, Request, make_sessions, shared_share
from forerun.bench.sonnets import Lengths, read_lines, sonnet_sessions
from forerun.bench.texts import fit, words
from forerun.bench.tokens import token_counter
from forerun.errors import ForerunError
from tests.support.tiny_checkpoints import write_tokenizer

GENERATED = sorted(set(DATASETS) - {"humaneval", "sharegpt", "custom"})


def count(text: str) -> int:
    """A token per four characters, and one that a tokenizer adds."""
    return 1 + (len(text) + 3) // 4


def request(number: int = 6, **changes: object) -> Request:
    settings = {"number": number, "lengths": Lengths(200, 20, 50, 5), "count": count, "seed": 7, **changes}
    return Request(**settings)  # type: ignore[arg-type]


def test_the_verses_have_the_size_of_llmperfs_poem() -> None:
    lines = read_lines(None)
    assert len(lines) == 83 and sum(len(line.encode()) for line in lines) == pytest.approx(3641, rel=0.01)
    assert len(set(lines)) == 83


def test_sonnet_prompts_are_as_long_as_they_were_drawn() -> None:
    lines = read_lines(None)
    sessions = sonnet_sessions(20, Lengths(300, 40, 50, 10), lines, count)
    for session in sessions:
        (turn,) = session.turns
        assert turn.nominal_input_tokens is not None and turn.max_tokens > 0
        head, _, text = turn.content.partition("\n\n")
        assert str(turn.max_tokens) in head
        whole = text.splitlines(keepends=True)
        assert all(line in lines for line in whole[:-1]) and any(line.startswith(whole[-1]) for line in lines)
        used = count(head + "\n\n") + sum(count(line) for line in whole[:-1])
        assert 0 <= turn.nominal_input_tokens - used <= max(map(count, lines))
    assert sessions == sonnet_sessions(20, Lengths(300, 40, 50, 10), lines, count)
    assert sessions != sonnet_sessions(20, Lengths(300, 40, 50, 10), lines, count, seed=2)


def test_the_draws_are_llmperfs_own(tmp_path: Path) -> None:
    """Lengths and orders of lines as LLMPerf (commit f1d6bed) drew them for its default flags and its 84 lines."""
    poem = [f"line {number:02} of some poem or other, end\n" for number in range(84)]
    (tmp_path / "poem.txt").write_text("".join(poem).removesuffix("\n"))
    lines = read_lines(str(tmp_path / "poem.txt"))
    assert len(lines) == 84 and not lines[-1].endswith("\n")
    sessions = sonnet_sessions(12, Lengths(), lines, count)
    assert [(turn.max_tokens, turn.nominal_input_tokens) for session in sessions for turn in session.turns] == [
        (167, 538), (92, 581), (231, 601), (173, 531), (64, 483), (32, 509), (56, 472), (98, 967), (101, 568),
        (155, 639), (167, 507), (45, 408),
    ]  # fmt: skip
    for session, order in zip(sessions, ((39, 61, 18, 35, 28, 4), (29, 60, 14, 34, 35, 81)), strict=False):
        text = session.turns[0].content.partition("\n\n")[2]
        assert text.startswith("".join(poem[number] for number in order))


def test_a_long_prompt_repeats_the_same_order() -> None:
    (session,) = sonnet_sessions(1, Lengths(4000, 0, 50, 0), read_lines(None), count)
    lines = session.turns[0].content.partition("\n\n")[2].splitlines()
    assert lines[:83] == lines[83:166] and len(set(lines[:83])) == 83


@pytest.mark.parametrize("lengths", [Lengths(3, 0, 5, 0), Lengths(300, 0, -5, 0)])
def test_lengths_that_cannot_be(lengths: Lengths) -> None:
    with pytest.raises(ForerunError):
        sonnet_sessions(1, lengths, read_lines(None), count)


def test_fitted_texts_are_the_longest_that_fit() -> None:
    for tokens in (1, 2, 10, 99, 500):
        text = fit(words(random.Random(3)), tokens, count)
        assert count(text) <= tokens
        source = words(random.Random(3))
        longer = " ".join(next(source) for _ in range(len(text.split()) + 1))
        assert longer.startswith(text) and count(longer) > tokens


@pytest.mark.parametrize("name", GENERATED)
@pytest.mark.parametrize("tokens", [0, 1])
def test_prompts_end_whatever_is_counted(name: str, tokens: int) -> None:
    """A tokenizer without words has no tokens for any text, one that takes a text for a word has one."""
    try:
        assert make_sessions(name, request(2, count=lambda text: tokens))
    except ForerunError as error:
        assert "give another --tokenizer" in str(error)


@pytest.mark.parametrize("name", GENERATED)
def test_every_set_gives_what_is_asked_for_and_the_same_again(name: str) -> None:
    sessions = make_sessions(name, request())
    assert len(sessions) == 6 and sessions == make_sessions(name, request())
    assert sessions != make_sessions(name, request(seed=8))
    assert all(turn.content and turn.max_tokens > 0 for session in sessions for turn in session.turns)


@pytest.mark.parametrize("name", ["math", "table", "dynamic-sonnet-1k", "dynamic-sonnet-2k", "prefix-repetition"])
def test_what_is_said_to_be_shared_is_shared(name: str) -> None:
    sessions = make_sessions(name, request(8, prefixes=1))
    contents = [session.turns[0].content for session in sessions]
    common = contents[0]
    for content in contents:
        while not content.startswith(common):
            common = common[:-1]
    for session in sessions[1:]:
        assert 0 <= count(common) - session.shared_tokens <= 6  # the next words may begin alike


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("math", 0.9, 1.0), ("table", 0.9, 1.0), ("dynamic-sonnet-1k", 0.24, 0.255),
        ("dynamic-sonnet-2k", 0.245, 0.255), ("dynamic-sonnet-4k", 0.245, 0.255), ("random", 0.0, 0.0),
        ("prefix-repetition", 0.0, 0.0),
    ],
)  # fmt: skip
def test_shares(name: str, low: float, high: float) -> None:
    share = shared_share(make_sessions(name, request(4)))
    assert share is not None and low <= share <= high


def test_a_prefix_is_shared_by_those_that_come_later() -> None:
    share = shared_share(make_sessions("prefix-repetition", request(8, prefixes=2)))
    assert share is not None and 0.36 <= share <= 0.38  # six of eight, and half of their prompts


@pytest.mark.parametrize("size", [1, 2, 4])
def test_dynamic_sonnets_have_their_length(size: int) -> None:
    for session in make_sessions(f"dynamic-sonnet-{size}k", request(3)):
        assert 0 <= 1024 * size - count(session.turns[0].content) <= 24


def test_chats_have_turns_and_a_system_prompt() -> None:
    sessions = make_sessions("chats", request(3, turns=5, think_seconds=2.0))
    assert [len(session.turns) for session in sessions] == [5, 5, 5]
    assert len({session.system for session in sessions}) == 1 and sessions[0].think_seconds == 2.0
    assert shared_share(sessions) is None


def test_human_eval_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(json.dumps({"prompt": f"def f{n}():"}).encode() for n in range(4))))
    sessions = make_sessions("humaneval", request(4, path=str(path)))
    assert [session.turns[0].content for session in sessions] == [f"def f{n}():" for n in range(4)]
    with pytest.raises(ForerunError, match="has 4 prompts, not 5"):
        make_sessions("humaneval", request(5, path=str(path)))


def test_share_gpt(tmp_path: Path) -> None:
    path = tmp_path / "chats.json"
    person, model = {"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello there"}
    path.write_text(json.dumps([{"conversations": talk} for talk in ([person, model, person, model], [model, person])]))
    (session,) = make_sessions("sharegpt", request(1, path=str(path)))
    assert [turn.content for turn in session.turns] == ["hi", "hi"]
    assert session.turns[0].max_tokens == count("hello there")
    (session,) = make_sessions("sharegpt", request(1, path=str(path), turns=1, output=9))
    assert [turn.max_tokens for turn in session.turns] == [9]


def test_share_gpt_takes_texts_alone_and_counts_what_it_leaves_out(tmp_path: Path) -> None:
    def talk(*values: object) -> dict[str, object]:
        return {"conversations": [{"from": who, "value": value} for who, value in zip(SPEAKERS, values, strict=False)]}

    strange = [talk(None, "a"), talk("q", None), talk("q", 5), talk(["q"], "a"), talk("q"), 5, None, {}]
    strange += [{"conversations": {"from": 1}}, {"conversations": [1, 2]}, {"conversations": [{"value": "q"}] * 2}]
    entries = [*strange, talk("q1", "a1"), talk("q2", "a2", "q3", None)]
    (tmp_path / "chats.json").write_text(json.dumps(entries))
    told: list[str] = []
    wanted = request(2, path=str(tmp_path / "chats.json"), say=told.append)
    sessions = make_sessions("sharegpt", wanted)
    assert [[turn.content for turn in session.turns] for session in sessions] == [["q1"], ["q2"]]
    assert len(told) == 1 and f"{len(strange)} of {len(entries)} entries" in told[0]


SPEAKERS = ("human", "gpt", "human", "gpt")


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    texts = ["a\u2028b", "c\u0085d\u2029", "e\x0b\x0c\x1cf"]
    lines = [json.dumps({"prompt": text}, ensure_ascii=False) for text in texts]
    (tmp_path / "x.jsonl").write_bytes("\r\n".join(["\ufeff" + lines[0], "", *lines[1:]]).encode())
    sessions = make_sessions("custom", request(3, path=str(tmp_path / "x.jsonl")))
    assert [session.turns[0].content for session in sessions] == texts
    (tmp_path / "poem.txt").write_bytes("\n".join(texts).encode())
    assert read_lines(str(tmp_path / "poem.txt")) == [texts[0] + "\n", texts[1] + "\n", texts[2]]


def test_a_file_of_another_coding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b'{"prompt": "caf\xe9"}')
    for name in ("custom", "sharegpt", "humaneval"):
        with pytest.raises(ForerunError, match=r"not UTF-8 \(byte 15"):
            make_sessions(name, request(1, path=str(tmp_path / "x")))


@pytest.mark.parametrize(
    ("name", "text", "words_"),
    [
        ("custom", None, "needs --dataset-path"), ("sharegpt", None, "needs --dataset-path"),
        ("custom", "{broken", "not JSON lines"), ("custom", '{"text": "x"}', "line 1.*prompt"),
        ("custom", "", "no prompts"),
        ("custom", '{"prompt": "x"}\n\n{"prompt": "y"', "line 3: .*column 15"), ("custom", "[1]", "line 1.*object"),
        ("custom", '{"prompt": "x"}\n{"prompt": 1}', "line 2: .*prompt"),
        ("sharegpt", "{}", "format"), ("sharegpt", "[1]", "has no chat"),
        ("sharegpt", '[{"conversations": [1, 2]}]', "has no chat"),
        ("custom", "[" * 100_000, "not JSON lines"), ("sharegpt", "[" * 100_000, "format"),
        ("sharegpt", "nope", "format"), ("humaneval", "", "no prompts"), ("sonett", None, "did you mean 'sonnet'"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used_are_one_line(name: str, text: str | None, words_: str, tmp_path: Path) -> None:
    path = None
    if text is not None:
        path = str(tmp_path / "file")
        Path(path).write_text(text)
    with pytest.raises(ForerunError, match=words_) as caught:
        make_sessions(name, request(1, path=path))
    assert "\n" not in str(caught.value)


def test_a_packed_file_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl.gz"
    path.write_bytes(b"\x1f\x8b\x08\x00abcdefghijklmnopq")
    with pytest.raises(ForerunError, match="cannot be read"):
        make_sessions("custom", request(1, path=str(path)))


def test_tokenizers_that_cannot_count(tmp_path: Path) -> None:
    """Also those that make the library panic, when they are built or at a text."""
    write_tokenizer(tmp_path, 300)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    assert token_counter(str(tmp_path), "m", ())("hello") > 0
    circle = {**document["model"], "vocab": {"a": 0}, "merges": ["a a"]}
    for broken in ("{", json.dumps({**document, "model": circle})):
        (tmp_path / "tokenizer.json").write_text(broken)
        with pytest.raises(ForerunError, match="is not a tokenizer"):
            token_counter(str(tmp_path), "m", ())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**document, "normalizer": {"type": "Prepend", "prepend": ""}}))
    with pytest.raises(ForerunError, match="fails on a prompt"):
        token_counter(str(tmp_path), "m", ())("hello")


def test_a_file_that_is_not_there() -> None:
    for name in ("custom", "sharegpt", "humaneval"):
        with pytest.raises(ForerunError, match="cannot be read"):
            make_sessions(name, request(1, path="/nowhere/file.jsonl"))
    with pytest.raises(ForerunError, match="--lines"):
        read_lines("/nowhere/poem.txt")

"""Counting by a server's /tokenize: what it is asked, and what it may answer."""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mock_server import Script, mock_server
from forerun.bench.tokens import hub_counter, token_counter
from forerun.errors import ForerunError
from tests.support.tiny_checkpoints import write_tokenizer


def by_words(body: dict[str, Any]) -> Script:
    return Script(raw=json.dumps({"count": len(body["prompt"].split()) + 1}).encode())


def test_the_server_counts_and_gets_the_key() -> None:
    with mock_server(by_words) as mock:
        count = token_counter(None, "m", (mock.url,), "secret")
        assert count("one two") == 3 and count("one two") == 3
        assert token_counter(None, "m", (mock.url,))("one") == 2
    assert [fields.get(b"authorization") for fields in mock.fields] == [b"bearer secret", None]


NO_COUNTS = (b"0", b"-5", b"Infinity", b"NaN", b"1e308", b"1" + b"0" * 300, b'"12"', b"true", b"null", b"{}", b"2.5")


def test_a_text_without_letters_may_have_no_tokens() -> None:
    with mock_server(lambda body: Script(raw=b'{"count": 0}')) as mock:
        assert token_counter(None, "m", (mock.url,))("") == 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Script(status=401, raw=b'{"error": "no\nkey"}'), "401: .*no.*key"),
        (Script(status=404), "404"),
        (Script(raw=b"{}"), "no count in {}"),
        (Script(raw=b"<p>"), "Expecting value"),
        (Script(raw=b"[" * 100_000), "no count in"),
        *[(Script(raw=b'{"count": %s}' % count), "tokens of 3 characters") for count in NO_COUNTS],
    ],
)
def test_a_server_that_does_not_count_is_one_line_in_its_own_words(answer: Script, words: str) -> None:
    with mock_server(lambda body: answer) as mock, pytest.raises(ForerunError, match=words) as caught:
        token_counter(None, "m", (mock.url,))("one")
    told = str(caught.value)
    assert "\n" not in told and "--tokenizer" in told and told.count("http") == 1


def test_another_server_counts_where_one_cannot() -> None:
    with mock_server(lambda body: Script(status=404)) as first, mock_server(by_words) as second:
        count = token_counter(None, "m", ("http://127.0.0.1:9/v1", first.url, second.url))
        assert count("one two") == 3 and count("one") == 2
        assert (len(first.bodies), len(second.bodies)) == (1, 2)
    with pytest.raises(ForerunError, match=re.escape(second.url.removesuffix("/v1"))):
        count("three")


def test_that_a_folder_is_not_there_is_said_before_the_hub_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def ask(name: str) -> Path:
        raise OSError(f"{name} after {len(told)} lines")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("forerun.bench.tokens._from_hub", ask)
    with pytest.raises(ForerunError, match=r"is no folder and cannot be fetched.* after 1 lines"):
        token_counter("data/nope", "m", (), say=told.append)
    assert "data/nope: no such folder" in told[0]
    (tmp_path / "data" / "nope").mkdir(parents=True)
    write_tokenizer(tmp_path / "data" / "nope", 300)
    assert token_counter("data/nope", "m", (), say=told.append)("a") > 0 and len(told) == 1


def test_a_hub_that_hangs_up_is_not_asked_for_long(tmp_path: Path) -> None:
    """Libraries retry for half a minute when nobody stops them."""
    asked = "from forerun.bench.tokens import hub_counter\nhub_counter('data/nope')"
    with socket.create_server(("127.0.0.1", 0)) as hub, ThreadPoolExecutor() as threads:
        calls = threads.submit(_hung_up_on, hub)
        unreachable = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.getsockname()[1]}", "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", asked], env=os.environ | unreachable, capture_output=True, text=True
        )
        hub.shutdown(socket.SHUT_RDWR)
        assert 1 <= calls.result() <= 3
    assert "ForerunError: --tokenizer data/nope is no folder and cannot be fetched" in done.stderr


def _hung_up_on(hub: socket.socket) -> int:
    """How many called until the hub was closed."""
    for calls in itertools.count():
        try:
            hub.accept()[0].close()
        except OSError:
            return calls
    raise AssertionError


def test_a_model_of_the_hub_without_a_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forerun.bench.tokens._from_hub", lambda name: tmp_path / "tokenizer.json")
    with pytest.raises(ForerunError, match=r"data/bare: no tokenizer\.json on the hub"):
        hub_counter("data/bare")
    write_tokenizer(tmp_path, 300)
    assert hub_counter("data/bare")("a") > 0

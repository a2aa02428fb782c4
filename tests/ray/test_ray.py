"""The application on Ray Serve: exact, at home in its caches, and whole when replicas come and go."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from forerun import LLM, SamplingParams
from forerun.errors import ForerunError
from tests.ray.conftest import Cluster
from tests.server.harness import wait_for

pytest.importorskip("ray")
from forerun.ray.arguments import Arguments

GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "return_token_ids": True}
LONG = 7000


@pytest.fixture(scope="module")
def url(cluster: Cluster) -> str:
    cluster.run(shutdown_timeout=8)
    return cluster.url


def complete(url: str, prompt: list[int], count: int, **body: Any) -> httpx.Response:
    asked = {"prompt": prompt, "max_tokens": count, **GREEDY, **body}
    return httpx.post(f"{url}/v1/completions", json=asked, timeout=120)


def cached(answer: httpx.Response) -> int:
    found: int = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return found


def pids(url: str) -> set[int]:
    return {each["pid"] for each in httpx.get(f"{url}/server_info", timeout=60).json()["replicas"]}


class Stream(threading.Thread):
    """A streamed completion, read in a thread."""

    def __init__(self, url: str, prompt: list[int], count: int) -> None:
        super().__init__(daemon=True)
        self.url, self.body = url, {"prompt": prompt, "max_tokens": count, "stream": True, **GREEDY}
        self.events: list[dict[str, Any]] = []
        self.done = False
        self.start()

    def run(self) -> None:
        with httpx.stream("POST", f"{self.url}/v1/completions", json=self.body, timeout=120) as response:
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    self.done = True
                elif line:
                    self.events.append(json.loads(line.removeprefix("data: ")))

    def tokens(self) -> list[int]:
        return [token for event in self.events for choice in event["choices"] for token in choice["token_ids"]]


def test_tokens_are_those_of_one_process(cluster: Cluster, url: str) -> None:
    prompts = [[5, 6, 7] * 20, [9] * 30]
    with LLM(str(cluster.model)) as alone:
        params = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
        expected = [list(each.outputs[0].token_ids) for each in alone.generate(prompts, params)]
    for prompt, tokens in zip(prompts, expected, strict=True):
        for salt in ("a", "b", "c", "d"):  # which share nothing, so both replicas have work
            assert complete(url, prompt, 24, cache_salt=salt).json()["choices"][0]["token_ids"] == tokens
        stream = Stream(url, prompt, 24)
        stream.join()
        assert stream.tokens() == tokens and stream.done and len(stream.events) > 3
    lines = [line for line in httpx.get(f"{url}/metrics").text.splitlines() if "vllm:generation_tokens_total{" in line]
    assert len(lines) == 2 and not any(line.endswith(" 0.0") for line in lines)


def test_conversations_stay_with_their_replica(url: str) -> None:
    talks = [[{"role": "user", "content": f"{number} " * 40}] for number in range(4)]
    shares = []
    for _ in range(3):
        for talk in talks:
            body = {"messages": talk, "max_tokens": 32, "ignore_eos": True, "temperature": 0}
            answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
            shares.append(cached(answer) / answer.json()["usage"]["prompt_tokens"])
            talk += [answer.json()["choices"][0]["message"], {"role": "user", "content": "Go on."}]
    assert max(shares[:4]) < 0.2 and min(shares[4:]) > 0.3


def test_salts_share_nothing_and_errors_are_ours(url: str) -> None:
    prompt = [33] * 200
    assert [cached(complete(url, prompt, 1, cache_salt=salt)) for salt in ("x", "y", "x")] == [0, 0, 192]
    refused = complete(url, prompt, 1, temperature=-1)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "temperature"
    assert len(refused.headers.get_list("x-request-id")) == 1
    assert httpx.post(f"{url}/v1/completions", content=b"{").status_code == 415
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    assert "default-src 'self'" in httpx.get(url, headers={"Accept": "text/html"}).headers["content-security-policy"]


def lose_one(url: str, end: Callable[[int], None], stopped: bool = False) -> None:
    wait_for(lambda: len(pids(url)) == 2)
    before = pids(url)
    streams = [Stream(url, [40 + number] * 20, LONG) for number in range(2)]
    wait_for(lambda: all(len(stream.events) > 3 for stream in streams))
    victim = min(before)
    end(victim)
    wait_for(lambda: any("error" in stream.events[-1] for stream in streams))
    if stopped:
        os.kill(victim, 0)  # it is there still: nobody waited for its end
    for number in range(6):  # nobody is sent to the dead one
        assert complete(url, [60 + number] * 20, 4).status_code == 200
    for stream in streams:
        stream.join()
    failed = [stream for stream in streams if "error" in stream.events[-1]]
    assert len(failed) == 1 and failed[0].done and failed[0].events[-1]["error"]["code"] == "replica_lost"
    (whole,) = (stream for stream in streams if stream not in failed)
    assert len(whole.tokens()) == LONG
    wait_for(lambda: len(pids(url)) == 2 and victim not in pids(url))


def test_a_killed_replica(url: str) -> None:
    lose_one(url, lambda pid: os.kill(pid, signal.SIGKILL))


def test_a_stopped_replica(url: str) -> None:
    lose_one(url, lambda pid: os.kill(pid, signal.SIGSTOP), stopped=True)


def test_nothing_is_lost_while_replicas_are_replaced(cluster: Cluster, url: str) -> None:
    wait_for(lambda: len(pids(url)) == 2)
    before, stop, results = pids(url), threading.Event(), list[int]()

    def ask(number: int) -> None:
        while not stop.is_set():
            results.append(complete(url, [70 + number] * 30, 200).status_code)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    cluster.run(shutdown_timeout=20)
    wait_for(lambda: len(pids(url)) == 2 and not pids(url) & before)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(results) == {200} and len(results) > 20


def test_keys_are_asked_for_at_the_front(cluster: Cluster, url: str) -> None:
    cluster.run(api_key=["alpha", "beta"], max_logprobs=22)
    wait_for(lambda: httpx.get(f"{url}/v1/models").status_code == 401)
    mine = {"Authorization": "Bearer beta"}
    wait_for(lambda: httpx.get(f"{url}/v1/models", headers=mine).status_code == 200)
    assert complete(url, [5], 1).status_code == 401


def test_arguments() -> None:
    given = Arguments.of(
        {"model": "m", "num_replicas": "3", "max-model-len": "64", "no_ui": True, "api_key": ["a", "b"]}
    )
    assert given == Arguments(
        3, None, None, ("--model", "m", "--max-model-len", "64", "--no-ui", "true", "--api-key", "a", "b")
    )
    scaled = Arguments.of({"num_replicas": "auto", "num_cpus": 2, "autoscaling_config": '{"max_replicas": 4}'})
    assert (scaled.num_replicas, scaled.num_cpus, scaled.autoscaling) == ("auto", 2, {"max_replicas": 4})
    assert Arguments.of({"autoscaling_config": {"max_replicas": 4}}).num_replicas is None
    assert Arguments.of({"speculative_config": {"method": "suffix"}}).flags[1] == '{"method": "suffix"}'


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"port": "80"}, "port is not for Ray Serve"),
        ({"num_replicas": "none"}, "num_replicas must be a whole number"),
        ({"num_cpus": 0}, "num_cpus must be"),
        ({"autoscaling_config": "[]"}, "must be a JSON object"),
    ],
)
def test_arguments_that_cannot_be(args: dict[str, Any], words: str) -> None:
    with pytest.raises(ForerunError, match=words):
        Arguments.of(args)

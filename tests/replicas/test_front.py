"""A front and its replicas as real processes, with the oracle model behind them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.harness import answer_ids, wait_for
from tests.server.process import ROOT, Process, background, started

GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "return_token_ids": True}
SLOW = ("--step-seconds", "0.005")


@pytest.fixture(scope="module")
def pair() -> Iterator[Process]:
    with replicas("--max-body-bytes", "20000", "--admin-api-key", "boss") as found:
        yield found


@contextmanager
def replicas(*flags: str) -> Iterator[Process]:
    """Two of them behind one address."""
    with started("--data-parallel-size", "2", *flags) as found:
        yield found


def info(front: Process) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{front.url}/server_info").json()["replicas"]
    return found


def complete(front: Process, prompt: list[int], count: int, **body: Any) -> httpx.Response:
    asked = {"prompt": prompt, "max_tokens": count, **GREEDY, **body}
    return httpx.post(f"{front.url}/v1/completions", json=asked, timeout=60)


def ids(response: httpx.Response) -> list[int]:
    assert response.status_code == 200, response.text
    found: list[int] = response.json()["choices"][0]["token_ids"]
    return found


def metric(front: Process, name: str) -> dict[str, float]:
    """Sums of a metric's samples by replica."""
    found: dict[str, float] = {}
    for line in httpx.get(f"{front.url}/metrics").text.splitlines():
        if line.startswith(f"{name}{{"):
            replica = line.split('replica="')[1].split('"')[0]
            found[replica] = found.get(replica, 0) + float(line.rsplit(" ", 1)[1])
    return found


class Stream(threading.Thread):
    """A streamed completion, read in a thread: ``events`` so far, then ``ended``."""

    def __init__(self, front: Process, prompt: list[int], count: int) -> None:
        super().__init__(daemon=True)
        self.url, self.body = front.url, {"prompt": prompt, "max_tokens": count, "stream": True, **GREEDY}
        self.events: list[str] = []
        self.start()

    def run(self) -> None:
        with (
            contextlib.suppress(httpx.TransportError),  # the front itself may be killed
            httpx.stream("POST", f"{self.url}/v1/completions", json=self.body, timeout=60) as response,
        ):
            for line in response.iter_lines():
                self.events += [line] if line else []

    def tokens(self) -> list[int]:
        assert self.events[-1] == "data: [DONE]"
        chunks = [json.loads(line.removeprefix("data: ")) for line in self.events[:-1]]
        return [token for chunk in chunks for choice in chunk["choices"] for token in choice["token_ids"]]

    def error(self) -> dict[str, Any] | None:
        """The error event before the last one, if it is one."""
        found: dict[str, Any] | None = json.loads(self.events[-2].removeprefix("data: ")).get("error")
        return found


def on_both(front: Process, hold: Path) -> tuple[Stream, Stream]:
    """A stream of 400 tokens on replica 0 and one on replica 1, in the middle of which the file ``hold`` stops them."""
    first = Stream(front, [5] * 20, 400)
    wait_for(lambda: [each["load"] for each in info(front)] == [1, 0])
    second = Stream(front, [6] * 20, 400)
    wait_for(lambda: len(first.events) > 2 and len(second.events) > 2)
    hold.touch()
    assert [each["load"] for each in info(front)] == [1, 1]
    return first, second


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_banner_models_and_tokens_are_those_of_one_server(pair: Process) -> None:
    text = "\n".join(pair.lines)
    assert "replicas  2, on oracle" in text and text.index("replicas") < text.index("Uvicorn running")
    assert [model["id"] for model in httpx.get(f"{pair.url}/v1/models").json()["data"]] == ["/x/artifact"]
    assert httpx.get(f"{pair.url}/health").json() == {"status": "ok"}
    for prompt in ([9] * 10, [8] * 30, [7] * 50):
        assert ids(complete(pair, prompt, 20)) == answer_ids(prompt, 20)
    streamed = Stream(pair, [9] * 10, 20)
    streamed.join()
    assert streamed.tokens() == answer_ids([9] * 10, 20)


def test_both_work_and_conversations_stay(pair: Process) -> None:
    before = metric(pair, "vllm:generation_tokens_total")
    talks = [[{"role": "user", "content": f"{number} " * 20}] for number in range(4)]
    cached = []
    for _ in range(3):
        for talk in talks:
            body = {"messages": talk, "max_tokens": 8, "ignore_eos": True, "temperature": 0}
            answer = httpx.post(f"{pair.url}/v1/chat/completions", json=body).json()
            cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"] / answer["usage"]["prompt_tokens"])
            talk += [answer["choices"][0]["message"], {"role": "user", "content": "Go on."}]
    after = metric(pair, "vllm:generation_tokens_total")
    assert {name: after[name] - before[name] for name in ("0", "1")} == {"0": 48, "1": 48}
    assert max(cached[:4]) < 0.5 and min(cached[4:]) > 0.5
    assert metric(pair, "forerun:replica_ready") == {"0": 1, "1": 1}


def test_metrics_name_replica_and_front(pair: Process) -> None:
    assert set(metric(pair, "process_cpu_seconds_total")) == {"0", "1", "front"}
    text = httpx.get(f"{pair.url}/metrics").text
    assert 'engine="1"' in text and text.count("# TYPE vllm:num_requests_running gauge") == 1
    load = httpx.get(f"{pair.url}/load").json()
    assert load["num_requests_running"] == 0
    view = httpx.get(f"{pair.url}/engine").json()
    assert view["blocks"] == 512 and view["answers"] == [] and view["block_size"] == 4


def test_errors_are_those_of_one_server(pair: Process) -> None:
    post = f"{pair.url}/v1/completions"
    large = httpx.post(post, json={"prompt": "x" * 30000})
    assert large.status_code == 413 and large.json()["error"]["code"] == "body_too_large"
    assert httpx.post(post, content=b"{").status_code == 415
    twice = httpx.post(post, content=b'{"n":1,"n":1}', headers={"Content-Type": "application/json"})
    assert twice.status_code == 400 and "duplicate key" in twice.text
    named = httpx.post(post, json={"prompt": [1], "temperature": -1}, headers={"X-Request-Id": "mine"})
    assert named.status_code == 400 and named.headers.get_list("x-request-id") == ["mine"]
    assert named.json()["error"]["param"] == "temperature"
    for path in ("nowhere", "v1/models/%C3%A9", "%00", "%3Fx=1", "%0d%0aX:y", "a/%2e%2e/health", "%ff"):
        refused = httpx.get(f"{pair.url}/{path}")
        assert refused.status_code == 404 and refused.json()["error"]["type"] == "not_found_error", path
    assert httpx.post(post, json={"prompt": [1], "model": "other"}).status_code == 404
    page = httpx.get(pair.url, headers={"Accept": "text/html"})
    assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]


def test_every_cache_is_emptied(pair: Process) -> None:
    prompt = [3] * 100
    complete(pair, prompt, 1)
    again = complete(pair, prompt, 1).json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert again > 0
    assert httpx.post(f"{pair.url}/reset_prefix_cache").status_code == 401
    reset = httpx.post(f"{pair.url}/reset_prefix_cache", headers={"X-Api-Key": "boss"})
    assert reset.status_code == 200
    assert complete(pair, prompt, 1).json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_keys_and_salts_reach_the_replicas() -> None:
    with started("-dp", "2", "--api-key", "alpha", "beta") as front:
        url = f"{front.url}/v1/completions"
        assert httpx.post(url, json={"prompt": [5]}).status_code == 401
        assert httpx.get(f"{front.url}/metrics").status_code == 401

        def cached(key: str, **body: Any) -> int:
            asked = {"prompt": [5] * 100, "max_tokens": 1, **body}
            answer = httpx.post(url, json=asked, headers={"Authorization": f"Bearer {key}"})
            found: int = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
            return found

        assert [cached(key) for key in ("alpha", "beta", "alpha", "beta")] == [0, 0, 96, 96]
        assert [cached(key, cache_salt="team") for key in ("alpha", "beta")] == [0, 96]
        front.process.send_signal(signal.SIGTERM)
        assert front.wait() == 0


def lose_one(front: Process, hold: Path, end: Callable[[int], None]) -> None:
    """``end`` ends replica 0 in mid-stream: its request gets its error, the other one goes on, and it comes back."""
    first, second = on_both(front, hold)
    pid = info(front)[0]["pid"]
    end(pid)
    first.join()
    problem = first.error()
    assert problem is not None and problem["code"] == "replica_lost" and first.events[-1] == "data: [DONE]"
    assert second.is_alive()
    found = [background(front.url, prompt=[5] * 20, max_tokens=3) for _ in range(3)]  # what replica 0 had
    wait_for(lambda: info(front)[1]["load"] >= 1)
    hold.unlink()
    for thread, responses in found:
        thread.join()
        assert responses[0].status_code == 200
    second.join()
    assert second.tokens() == answer_ids([6] * 20, 400)
    wait_for(lambda: info(front)[0]["ready"])
    back = info(front)[0]
    assert back["pid"] != pid and back["restarts"] == 1 and gone(pid)
    assert metric(front, "forerun:replica_lost_requests_total") == {"0": 1, "1": 0}
    assert ids(complete(front, [4] * 20, 5)) == answer_ids([4] * 20, 5)


def test_a_killed_replica(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    with replicas(*SLOW, "--hold", str(hold)) as front:
        lose_one(front, hold, lambda pid: os.kill(pid, signal.SIGKILL))
        front.wait_for_line("replica 0 failed (SIGKILL); starting it again")


def test_a_stopped_replica(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    with replicas(*SLOW, "--hold", str(hold)) as front:
        lose_one(front, hold, lambda pid: os.kill(pid, signal.SIGSTOP))
        front.wait_for_line("replica 0 failed (said nothing for 4 s and was ended); starting it again")


def test_a_request_that_streams_nothing_gets_502(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    with replicas(*SLOW, "--hold", str(hold)) as front:
        thread, found = background(front.url, prompt=[5] * 20, max_tokens=3)
        wait_for(lambda: info(front)[0]["load"] == 1)
        os.kill(info(front)[0]["pid"], signal.SIGKILL)
        thread.join()
        assert found[0].status_code == 502 and found[0].json()["error"]["code"] == "replica_lost"
        hold.unlink()


def test_nothing_is_lost_while_replicas_are_restarted_in_good_order() -> None:
    with replicas("--step-seconds", "0.002") as front:
        stop, results = threading.Event(), list[int]()

        def ask(number: int) -> None:
            prompt = [40 + number] * 30
            while not stop.is_set():
                response = complete(front, prompt, 20)
                assert response.status_code != 200 or ids(response) == answer_ids(prompt, 20)
                results.append(response.status_code)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for number in (0, 1):
            pid = info(front)[number]["pid"]
            os.kill(pid, signal.SIGTERM)
            wait_for(lambda number=number, pid=pid: info(front)[number]["pid"] not in (pid, None))  # type: ignore[misc]
            wait_for(lambda number=number: info(front)[number]["ready"])  # type: ignore[misc]
        stop.set()
        for thread in threads:
            thread.join()
        assert set(results) == {200} and len(results) > 20
        assert metric(front, "forerun:replica_lost_requests_total") == {"0": 0, "1": 0}
        assert metric(front, "forerun:replica_restarts_total") == {"0": 1, "1": 1}


def test_sigterm_drains_all_and_leaves_nothing(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    with replicas(*SLOW, "--hold", str(hold)) as front:
        first, second = on_both(front, hold)
        pids = [each["pid"] for each in info(front)]
        front.process.send_signal(signal.SIGTERM)
        front.wait_for_line("taking no more requests; 2 may go on")
        assert httpx.get(f"{front.url}/health").status_code == 503
        assert complete(front, [5], 1).status_code == 503
        hold.unlink()
        first.join()
        second.join()
        assert (first.tokens(), second.tokens()) == (answer_ids([5] * 20, 400), answer_ids([6] * 20, 400))
        assert front.wait() == 0 and all(map(gone, pids))
        assert "Traceback" not in "\n".join(front.lines)


def test_sigterm_ends_a_front_whose_replicas_are_starting(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    words = ("-m", "tests.server.oracle_server", "--model", "/x/artifact", "--port", "0", "--data-parallel-size", "2")
    front = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for(lambda: any(tmp_path.iterdir()))
    front.send_signal(signal.SIGTERM)
    said, _ = front.communicate(timeout=60)
    assert front.returncode == 0 and "Traceback" not in said, said
    assert not any(tmp_path.iterdir())


def test_no_orphans_when_the_front_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold, sockets = tmp_path / "hold", Path(tempfile.mkdtemp(prefix="fr"))  # the name of a socket must be short
    monkeypatch.setenv("TMPDIR", str(sockets))
    with replicas(*SLOW, "--hold", str(hold), "--shutdown-timeout", "0") as front:
        on_both(front, hold)
        pids = [each["pid"] for each in info(front)]
        front.process.kill()
        hold.unlink()
        wait_for(lambda: all(map(gone, pids)))
    sockets.rmdir()  # nothing is left in it


def test_a_client_that_leaves_ends_its_request(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    with replicas(*SLOW, "--hold", str(hold)) as front:
        body = {"prompt": [5] * 20, "max_tokens": 300, "stream": True, **GREEDY}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{front.url}/v1/completions", json=body, timeout=httpx.Timeout(60, read=0.3))
        hold.unlink()
        wait_for(lambda: metric(front, "vllm:request_success_total")["0"] == 1)
        assert [each["load"] for each in info(front)] == [0, 0]
        text = httpx.get(f"{front.url}/metrics").text
        ended = next(line for line in text.splitlines() if 'finished_reason="abort"' in line and 'replica="0"' in line)
        assert ended.endswith(" 1.0")


def test_replicas_that_do_not_start_end_the_front() -> None:
    with pytest.raises(AssertionError) as failed, replicas("--max-num-seqs", "9999"):
        pass
    lines = "\n".join(failed.value.args[0])
    assert "error: replica 0 did not start (status 1)" in lines and "max_num_seqs (9999)" in lines
    assert "Traceback" not in lines


@pytest.mark.parametrize("count", ["0", "65"])
def test_how_many_there_may_be(count: str) -> None:
    with pytest.raises(AssertionError) as failed, started("-dp", count):
        pass
    assert "must be 1 to 64" in "\n".join(failed.value.args[0])

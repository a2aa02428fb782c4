"""``forerun bench load`` and ``token_benchmark_ray`` as they are typed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mock_server import Script, mock_server
from forerun.cli.main import main
from tests.support.tiny_checkpoints import write_tokenizer

USAGE = {"prompt_tokens": 33, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 11}}


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    write_tokenizer(tmp_path, 320)
    return str(tmp_path)


def load(tokenizer: str, *flags: str) -> list[str]:
    return ["bench", "load", "--model", "m", "--tokenizer", tokenizer, "--mean-input-tokens", "400", *flags]


def test_the_tutorials_command_line(tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    results = tmp_path / "llmperf-results-sonnets"
    with mock_server(lambda body: Script(usage=USAGE)) as mock:
        monkeypatch.setenv("OPENAI_API_BASE", mock.url)
        monkeypatch.setenv("OPENAI_API_KEY", "mock_key")
        words = (
            f"bench load --model {tokenizer} --mean-input-tokens 1000 --stddev-input-tokens 0 --mean-output-tokens 15 "
            f"--stddev-output-tokens 0 --num-concurrent-requests 1 --timeout 3600 --max-num-completed-requests 5 "
            f"--tokenizer {tokenizer} --additional-sampling-params {{}} --llm-api openai --results-dir {results}"
        )
        assert main(words.split()) == 0
    told = capsys.readouterr()
    assert "Number Of Completed Requests: 5" in told.out and "Requests: " in told.err
    (summary,) = results.glob("*_summary.json")
    found = json.loads(summary.read_text())
    assert found["results_number_input_tokens_quantiles_p50"] == 1000 and found["results_number_output_tokens_max"] > 0
    assert found["forerun"]["cached_tokens"] == 55 and found["forerun"]["output_tokens"] == 15
    assert [body["messages"][0] for body in mock.bodies] == [{"role": "system", "content": ""}] * 5
    assert all(body["max_tokens"] == 15 for body in mock.bodies)


def test_sampling_fields_metadata_and_json(tokenizer: str, capsys) -> None:  # type: ignore[no-untyped-def]
    with mock_server(lambda body: Script(usage=USAGE)) as mock:
        flags = ("--base-url", mock.url, "--additional-sampling-params", '{"top_k": 1}', "--json", "--num-warmups", "1")
        goals = ("--goodput", "ttft:60000", "--dataset-name", "math", "--max-num-completed-requests", "3")
        assert main(load(tokenizer, *flags, *goals)) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(body["top_k"] == 1 for body in mock.bodies) and len(mock.bodies) == 4
    assert found["forerun"]["goodput"]["requests"] == 3 and found["forerun"]["dataset"]["shared_share"] > 0.9
    assert len(found["forerun"]["warmups"]) == 1


def test_a_server_with_a_key_counts_too(capsys) -> None:  # type: ignore[no-untyped-def]
    def script(body: dict[str, Any]) -> Script:
        return Script(usage=USAGE) if "messages" in body else Script(raw=b'{"count": 9}')

    with mock_server(script) as mock:
        flags = ("--base-url", mock.url, "--api-key", "secret", "--dataset-name", "table")
        assert main(["bench", "load", "--model", "m", *flags]) == 0
    assert {fields[b"authorization"] for fields in mock.fields} == {b"bearer secret"}
    assert any("messages" not in body for body in mock.bodies)


def test_nothing_completed_is_status_1_and_says_why(tokenizer: str, capsys) -> None:  # type: ignore[no-untyped-def]
    with mock_server(lambda body: Script(status=401, raw=b'{"error": "key"}')) as mock:
        assert main(load(tokenizer, "--base-url", mock.url, "--max-num-completed-requests", "4")) == 1
    told = capsys.readouterr()
    assert "Number Of Errored Requests: 4" in told.out and "{401: 4}" in told.out
    assert '4 x 401: {"error": "key"}' in told.err


def test_ctrl_c_keeps_what_was_answered(tokenizer: str, tmp_path: Path) -> None:
    results = tmp_path / "results"
    child = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); " + (
        "from forerun.cli.main import main; sys.exit(main())"
    )
    with mock_server(lambda body: Script(usage=USAGE, pause=0.05)) as mock:
        flags = ("--base-url", mock.url, "--max-num-completed-requests", "500", "--results-dir", str(results))
        words = [sys.executable, "-c", child, *load(tokenizer, *flags, "--num-concurrent-requests", "2")]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while len(mock.bodies) < 6 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130 and "Number Of Errored Requests: 0" in out, err
    assert "interrupted: these are the figures" in err and "Traceback" not in err
    (singles,) = results.glob("*_individual_responses.json")
    (summary,) = results.glob("*_summary.json")
    assert 4 <= len(json.loads(singles.read_text())) < 500
    assert json.loads(summary.read_text())["forerun"]["interrupted"] is True


def test_the_files_are_there_whatever_becomes_of_the_report(tokenizer: str, tmp_path: Path) -> None:
    with mock_server(lambda body: Script(usage=USAGE)) as mock:
        address = mock.url.replace("http://", "http://user:word@")
        flags = ("--base-url", address, "--api-key", "sesame", "--results-dir", str(tmp_path), "--json")
        words = [sys.executable, "-m", "forerun.cli.main", *load(tokenizer, *flags)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.close()  # as `| true`
    (summary,) = tmp_path.glob("*_summary.json")
    assert len(list(tmp_path.glob("*_individual_responses.json"))) == 1
    told = summary.read_text()
    assert "sesame" not in told and "user:word" not in told and '"--api-key",' in told and "//***@" in told


def test_flags_that_change_nothing_are_named(tokenizer: str, capsys) -> None:  # type: ignore[no-untyped-def]
    with mock_server(lambda body: Script(usage=USAGE)) as mock:
        assert main(load(tokenizer, "--base-url", mock.url, "--output-len", "9", "--dataset-name", "sonnet")) == 0
    assert "--output-len changes nothing here: sonnet prompts do not read it" in capsys.readouterr().err


def test_goodput_and_cancelled_requests_are_told(tokenizer: str, capsys) -> None:  # type: ignore[no-untyped-def]
    with mock_server(lambda body: Script(usage=USAGE)) as mock:
        flags = ("--max-num-completed-requests", "4", "--cancel-share", "0.5", "--cancel-after", "1e-3")
        flags = (*flags, "--num-concurrent-requests", "1", "--goodput", "ttft:60000", "e2el:1e-3")
        assert main(load(tokenizer, "--base-url", mock.url, *flags)) == 0
    err = capsys.readouterr().err
    assert "goodput: 0 of 2 answers within ttft 60000 ms, e2el 0.001 ms" in err
    assert "2 of 4 requests were cancelled, as asked" in err


def test_a_folder_that_cannot_be_written_is_told_first(tokenizer: str, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "file").write_text("")
    with mock_server(lambda body: Script(usage=USAGE)) as mock:
        assert main(load(tokenizer, "--base-url", mock.url, "--results-dir", str(tmp_path / "file" / "x"))) == 1
        assert mock.bodies == []
    assert "--results-dir" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--mean-input-tokens", "0"], "--mean-input-tokens must be within"),
        (["--cancel-share", "2"], "--cancel-share must be within 0..1"),
        (["--timeout", "nan"], "--timeout must be within"),
        (["--llm-api", "anthropic"], "only openai"),
        (["--request-rate", "-1"], "--request-rate"),
        (["--num-concurrent-requests", "0"], "needs --request-rate"),
        (["--base-url", "localhost"], "not a server"),
        (["--base-url", ""], "--base-url"),
        (["--api-key", "\u00e9"], "--api-key"),
        (["--api-key", "key\n"], "--api-key"),
        (["--dataset-name", "mth"], "did you mean 'math'"),
        (["--goodput", "x"], "--goodput x"),
        (["--tokenizer", "/nowhere"], "--tokenizer /nowhere"),
        (["--burstiness", "0"], "--burstiness"),
        (["--model", "\udcff"], "--model must be"),
    ],
)
def test_wrong_flags_are_one_line(
    tokenizer: str,
    flags: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys,  # type: ignore[no-untyped-def]
) -> None:
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1")
    assert main(load(tokenizer, *flags)) == 1
    told = capsys.readouterr()
    assert words in told.err.splitlines()[-1] and told.out == "" and "Traceback" not in told.err


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--additional-sampling-params", "{"),
        ("--additional-sampling-params", "[1]"),
        ("--additional-sampling-params", '{"x": NaN}'),
        ("--additional-sampling-params", '{"x": "\\ud83d"}'),
        ("--metadata", "x"),
    ],
)
def test_values_that_cannot_be_parsed(tokenizer: str, flag: str, value: str, capsys) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SystemExit) as ended:
        main(load(tokenizer, flag, value))
    assert ended.value.code == 2 and flag in capsys.readouterr().err


def sweep(tokenizer: str, url: str) -> list[str]:
    flags = (
        "--base-url",
        url,
        "--max-num-completed-requests",
        "8",
        "--json",
        "--goodput",
        "ttft:60000",
        "--highest",
        "4",
    )
    return ["bench", "sweep", *load(tokenizer, *flags)[2:]]


def test_a_sweep_whose_goals_hold(tokenizer: str, capsys) -> None:  # type: ignore[no-untyped-def]
    with mock_server(lambda body: Script(usage=USAGE)) as mock:
        assert main(sweep(tokenizer, mock.url)) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["best"], found["broken"], [one["load"] for one in found["tried"]]) == (4, None, [1, 2, 4])
    prompts = [body["messages"][-1]["content"] for body in mock.bodies]
    assert len(set(prompts)) == len(prompts) == 8 + 8 + 12  # nothing that is in a cache


def test_a_sweep_says_once_what_a_file_has_that_cannot_be_used(tokenizer: str, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    chat = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    (tmp_path / "chats.json").write_text(json.dumps([{}, *[chat] * 8]))
    with mock_server(lambda body: Script(usage=USAGE)) as mock:
        flags = ("--dataset-name", "sharegpt", "--dataset-path", str(tmp_path / "chats.json"))
        assert main([*sweep(tokenizer, mock.url), *flags, "--highest", "2"]) == 0
        assert main([*sweep(tokenizer, mock.url), *flags]) == 1
    told = capsys.readouterr().err
    assert "8 chats, not 12 (3 times --highest 4): lower --highest" in told
    assert told.count("1 of 9 entries") == 2


def test_a_sweep_over_rates_holds_nothing_back(tokenizer: str, capsys) -> None:  # type: ignore[no-untyped-def]
    with mock_server(lambda body: Script(usage=USAGE, pause=0.2)) as mock:
        words = ("--over", "rate", "--lowest", "200", "--highest", "200", "--max-num-completed-requests", "24")
        assert main([*sweep(tokenizer, mock.url), *words]) == 0
        assert mock.most_open > 10  # which a closed loop has by default
    assert json.loads(capsys.readouterr().out)["best"] == 200


def test_a_sweep_has_as_many_at_once_as_it_says(tokenizer: str, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    with mock_server(lambda body: Script(usage=USAGE, pause=0.1)) as mock:
        words = ("--lowest", "12", "--highest", "12", "--results-dir", str(tmp_path))
        assert main([*sweep(tokenizer, mock.url), *words]) == 0
        assert mock.most_open == 12 and len(mock.bodies) == 36
    assert json.loads((tmp_path / "sweep.json").read_text()) == json.loads(capsys.readouterr().out)


def test_a_sweep_whose_goals_break_at_once(tokenizer: str, capsys) -> None:  # type: ignore[no-untyped-def]
    with mock_server(lambda body: Script(status=500, raw=b"no")) as mock:
        assert main(sweep(tokenizer, mock.url)) == 1
    assert json.loads(capsys.readouterr().out)["best"] is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [([], "needs goals"), (["--goodput", "ttft:5", "--lowest", "9", "--highest", "2"], "--lowest"),
     (["--goodput", "ttft:5", "--lowest", "1.5"], "whole numbers")],
)  # fmt: skip
def test_sweeps_that_cannot_be(tokenizer: str, flags: list[str], words: str, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(["bench", "sweep", *load(tokenizer, "--base-url", "http://127.0.0.1:9/v1", *flags)[2:]]) == 1
    assert words in capsys.readouterr().err

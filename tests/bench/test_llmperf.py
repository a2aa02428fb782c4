from __future__ import annotations

import json
import random
import statistics as reference
from pathlib import Path

import numpy as np
import pytest

from forerun.bench import llmperf, metrics
from forerun.bench.load import Result
from forerun.bench.records import Outcome
from forerun.errors import ForerunError


def words(text: str) -> int:
    return len(text.split())


def outcome(number: int, draw: random.Random) -> Outcome:
    sent = float(number)
    times = sorted(sent + draw.random() for _ in range(draw.randrange(2, 9)))
    text = " ".join("w" for _ in times)
    usage = {
        "prompt_tokens": 20, "completion_tokens": len(times) + 1, "prompt_tokens_details": {"cached_tokens": 5},
        "completion_tokens_details": {"accepted_prediction_tokens": 3, "rejected_prediction_tokens": 1},
    }  # fmt: skip
    return Outcome(number, 0, 9, 17, sent, times[-1] + 0.1, times, text, "stop", usage)


@pytest.fixture
def result() -> Result:
    draw = random.Random(4)
    outcomes = [outcome(number, draw) for number in range(20)]
    outcomes[3] = Outcome(3, 0, 9, 17, 3.0, 3.1, error_code=503, error_message="full")
    outcomes[5] = Outcome(5, 0, 9, 17, 5.0, 5.1, cancelled=True)
    outcomes[7] = Outcome(7, 0, 9, 17, 7.0, 7.1)
    return Result(outcomes=outcomes, seconds=21.0, lag=[0.001, 0.002])


def test_one_request_under_both_vocabularies() -> None:
    one = Outcome(0, 0, 9, 17, 1.0, 3.5, [1.5, 2.0, 3.0], "a b c d", "stop", {"completion_tokens": 5})
    found = metrics.llmperf_metrics(one, words)
    assert found == {
        "error_code": None, "error_msg": "", "inter_token_latency_s": 0.5, "ttft_s": 0.5, "end_to_end_latency_s": 2.5,
        "request_output_throughput_token_per_s": 1.6, "number_total_tokens": 21, "number_output_tokens": 4,
        "number_input_tokens": 17,
    }  # fmt: skip
    true = metrics.true_metrics(one)
    assert (true["tpot_s"], true["itl_s"], true["output_tokens"]) == (0.375, [0.5, 1.0], 5)
    alone = Outcome(0, 0, 1, 17, 1.0, 2.0, [1.5], "a", "length", {"completion_tokens": 1})
    assert metrics.llmperf_metrics(alone, words)["inter_token_latency_s"] == 0.0
    assert metrics.true_metrics(alone)["tpot_s"] is None


def test_statistics_are_those_of_numpy_and_the_standard_library() -> None:
    values = [random.Random(1).random() for _ in range(37)]
    found = metrics.statistics(values)
    for percent in metrics.QUANTILES:
        assert found["quantiles"][f"p{percent}"] == pytest.approx(np.percentile(values, percent))
    assert found["stddev"] == pytest.approx(reference.stdev(values))
    assert metrics.statistics([]) == {} and metrics.statistics([2.0])["stddev"] == 0.0


def test_the_files_give_the_figures_that_are_printed(result: Result, tmp_path: Path) -> None:
    each = llmperf.individual(result, words)
    figures = llmperf.results(each, result.seconds)
    settings = {
        "model": "/m/Llama 3--8B/", "mean_input_tokens": 17, "stddev_input_tokens": 0, "mean_output_tokens": 9,
        "stddev_output_tokens": 0, "num_concurrent_requests": 1, "additional_sampling_params": {"top_k": 1},
    }  # fmt: skip
    extra = metrics.summary(result, {"ttft": 0.2})
    paths = llmperf.write(str(tmp_path / "new"), settings, figures, {"who": "me"}, each, extra)
    assert [path.name for path in paths] == [
        "-m-Llama-3-8B-_17_9_summary.json", "-m-Llama-3-8B-_17_9_individual_responses.json",
    ]  # fmt: skip
    summary, singles = (json.loads(path.read_text()) for path in paths)
    again = llmperf.flattened({"results": llmperf.results(singles, result.seconds)})
    assert {key: summary[key] for key in again} == again
    assert summary["additional_sampling_params_top_k"] == 1 and summary["who"] == "me"
    assert summary["results_num_requests_started"] == 19 and summary["results_number_errors"] == 2
    assert summary["results_error_code_frequency"] == "{503: 1, -1: 1}"
    for name in llmperf.METRICS:
        assert f"results_{name}_quantiles_p99" in summary and f"results_{name}_stddev" in summary
    text = llmperf.printed(figures, "m", "openai")
    assert f"    p50 = {summary['results_ttft_s_quantiles_p50']}" in text
    assert text.startswith(
        "\\Results for token benchmark for m queried with the openai api.\n\ninter_token_latency_s\n"
    )
    assert "Number Of Errored Requests: 2\nError Code Frequency\n{503: 1, -1: 1}\nOverall Output Throughput: " in text
    assert text.splitlines()[-1].startswith("Completed Requests Per Minute: ")


def test_a_run_in_which_nothing_was_completed_has_every_key(result: Result, tmp_path: Path) -> None:
    each = llmperf.individual(Result(outcomes=[result.outcomes[3]]), words)
    assert (each[0]["error_code"], each[0]["number_input_tokens"], each[0]["number_total_tokens"]) == (503, 17, 17)
    none, some = (llmperf.results(ones, 1.0) for ones in (each, llmperf.individual(result, words)))
    assert llmperf.flattened(none).keys() == llmperf.flattened(some).keys()
    assert none["ttft_s"]["quantiles"]["p50"] is None and none["num_completed_requests"] == 0
    assert "    stddev = nan\n" in llmperf.printed(none, "m", "openai")
    llmperf.make_folder(str(tmp_path / "a" / "b"))
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ForerunError, match=r"--results-dir .* cannot be written"):
        llmperf.make_folder(str(tmp_path / "file"))


def test_a_run_whose_counting_server_is_gone_keeps_its_figures(result: Result) -> None:
    def gone(text: str) -> int:
        raise ForerunError("tokens cannot be counted")

    each = llmperf.individual(result, gone)
    assert len(each) == 19
    good = [one for one in each if one["error_code"] is None]
    assert len(good) == 17 and all(one["number_output_tokens"] == one["forerun"]["output_tokens"] for one in good)


def test_the_true_summary(result: Result) -> None:
    found = metrics.summary(result, {"ttft": 1e9, "tpot": 1e-9})
    assert (found["requests"], found["completed"], found["cancelled"]) == (20, 17, 1)
    assert found["input_tokens"] == 17 * 20 and found["cached_share"] == 0.25 and found["acceptance"] == 0.75
    assert {error["message"] for error in found["errors"]} == {"503: full", "-1: the answer has no text"}
    assert found["goodput"]["requests"] == 0
    assert found["output_tokens_per_s"] == found["output_tokens"] / 21.0
    json.dumps(found, allow_nan=False)


def test_a_server_that_counts_nothing() -> None:
    quiet = Outcome(0, 0, 9, None, 0.0, 1.0, [0.5], "a b", "stop")
    found = metrics.summary(Result(outcomes=[quiet], seconds=1.0), {})
    assert found["input_tokens"] is None and found["cached_share"] is None and found["output_tokens_per_s"] is None


def test_goals() -> None:
    assert metrics.parse_goodput(["ttft:500", "e2el:1e3"]) == {"ttft": 0.5, "e2el": 1.0}
    for wrong in ("ttft", "ttft:x", "tttf:5", "ttft:-1", "ttft:inf", "ttft:nan"):
        with pytest.raises(ForerunError, match="--goodput"):
            metrics.parse_goodput([wrong])

"""forerun serve: the flags of the tutorials' scripts, and what is compared with the artifact."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import pytest

from forerun.cli.parser import Parser
from forerun.cli.serve import add_arguments, engine_settings, model_request, notices, server_settings
from forerun.config import OnDeviceSamplingConfig
from forerun.errors import ArtifactError, ConfigError, ForerunError
from forerun.opening import Prepared, prepare
from forerun.server.sampling_params import SamplingDefaults, sampling_defaults
from forerun.server.server_settings import Cors
from tests.support.artifacts import tiny_artifact


def parse(*words: str) -> argparse.Namespace:
    parser = Parser(prog="forerun serve", allow_abbrev=False)
    add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds ``model`` and ``artifact``, which takes 8 sequences of 512 tokens."""
    path = tmp_path_factory.mktemp("serve")
    tiny_artifact(path, seq_len=512, batch_size=8, is_prefix_caching=True)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FORERUN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "artifacts"


def ready(model: Path, *words: str, environ: dict[str, str] | None = None) -> tuple[Prepared, list[str]]:
    lines: list[str] = []
    return prepare(model_request(parse("--model", str(model), *words), environ or {}), lines.append), lines


TUTORIAL = shlex.split(
    "--max-model-len 512 --tensor-parallel-size 1 --device neuron --use-v2-block-manager --port 8000"
)
SCRIPTS = {
    "prefix 1": ["--max-num-seqs", "4", "--block-size", "32"],
    "prefix 2": [
        *shlex.split("--max-num-seqs 4 --num-gpu-blocks-override 2048 --enable-prefix-caching --block-size 32"),
        *("--override-neuron-config", '{"is_block_kv_layout": true, "is_prefix_caching": true}'),
    ],
    "speculation 1": [
        *shlex.split("--max-num-seqs 1"),
        *("--override-neuron-config", '{"on_device_sampling_config": {"do_sample": true}, "skip_warmup": true}'),
    ],
    "speculation 2": [
        *shlex.split("--max-num-seqs 1 --speculative-max-model-len 512"),
        *shlex.split("--speculative-model /m/1b/ --num-speculative-tokens 7"),
        *("--override-neuron-config", '{"enable_fused_speculation":true}'),
    ],
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_tutorial_scripts(folder: Path, name: str) -> None:
    words = [word.replace("/m/1b/", str(folder / "model")) for word in (*TUTORIAL, *SCRIPTS[name])]
    environ = {"NEURON_COMPILED_ARTIFACTS": str(folder / "artifact")}
    prepared, _ = ready(Path("/models/Llama/"), *words, environ=environ)
    assert prepared.artifact.path == folder / "artifact" and prepared.config.max_length == 512
    args = parse("--model", "/models/Llama/", *words)
    assert server_settings(args).served_names == ("/models/Llama/",)
    said = notices(args)
    assert "--device neuron: this machine's processor" in said and any(
        line.startswith("--use-v2-block-manager: no effect here: ") for line in said
    )
    if name == "prefix 2":
        assert prepared.config.pa_num_blocks == 2048 and prepared.request.engine.enable_prefix_caching
    if name == "speculation 2":
        assert "--num-speculative-tokens 7: up to 6 drafted tokens + 1 a step" in said
        drafts = prepared.request.engine.speculative_config
        assert drafts is not None and drafts.num_speculative_tokens == 6 and drafts.fused
        assert prepared.draft is not None and prepared.draft.config.max_length == 512


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tensor-parallel-size", "0"], "--tensor-parallel-size must be at least 1, not 0"),
        (["--device", "cuda"], "--device cuda is not here"),
        (["--override-neuron-config", "{"], "--override-neuron-config: "),
        (["--override-neuron-config", "[1]"], "a JSON object was expected"),
        (["--speculative-config", '{"method": "medusa"}'], "speculative method 'medusa'"),
        (["--speculative-config", "[1]"], "is not a JSON object"),
        (["--override-neuron-config", '{"is_prefix_cachin": true}'], "did you mean 'is_prefix_caching'"),
        (["--override-neuron-config", '{"on_device_sampling_config": {"topk": 1}}'], "did you mean 'top_k'"),
        (["--override-neuron-config", '{"pa_num_blocks": "many"}'], "pa_num_blocks must be a whole number"),
        (["--max-num-seqs", "0"], "--max-num-seqs must be at least 1"),
        (["--max-model-len", "1000000"], "--max-model-len 1000000 is longer than the model's context of"),
        (["--kv-cache-dtype", "fp8"], "--kv-cache-dtype fp8 is not here"),
        (
            ["--kv-cache-dtype", "int8"],
            "--kv-cache-dtype int8 (stored bfloat16); compile again with --kv-cache-dtype int8",
        ),
        (["--quantization", "awq"], "--quantization awq is not here"),
        (["--quantization", "int4"], "was compiled with other settings"),
        (["--dtype", "bfloat16"], "--dtype bfloat16 (stored auto)"),
        (["--block-size", "7"], "--block-size must be one of"),
        (["--num-gpu-blocks-override", "1"], "--num-gpu-blocks-override 1 is below the minimum: one sequence needs"),
        (["--num-gpu-blocks-override", "1"], "ceil(--max-model-len / --block-size) = ceil(512 / 32) = 16 blocks"),
        (["--threads", "-1"], "--threads -1 must not be negative"),
        (["--recompile"], "give the checkpoint to compile it again"),
    ],
)
def test_refusals_are_one_clear_line(folder: Path, words: list[str], message: str) -> None:
    with pytest.raises(ForerunError) as caught:
        ready(folder / "artifact", *words)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_differences_are_told_before_the_start_is_refused(folder: Path) -> None:
    lines: list[str] = []
    words = ("--max-num-seqs", "16", "--block-size", "16", "--kv-cache-dtype", "int8")
    with pytest.raises(ArtifactError):
        prepare(model_request(parse("--model", str(folder / "artifact"), *words), {}), lines.append)
    table = lines[0].splitlines()
    assert table[0].split() == ["setting", "requested", "artifact"]
    assert any(line.startswith("--block-size") and line.endswith("run-time setting") for line in table)
    assert any(line.startswith("--max-num-seqs") and line.endswith("run-time setting") for line in table)
    assert any(line.startswith("--kv-cache-dtype") and line.endswith("needs a recompile") for line in table)


def test_compiling_at_the_first_start(folder: Path, own_cache: Path) -> None:
    words = shlex.split("--max-num-seqs 6 --max-model-len 256 --num-gpu-blocks-override 99 --block-size 16")
    prepared, _ = ready(folder / "model", *words)
    stored = prepared.artifact.neuron_config
    assert (stored.batch_size, stored.seq_len, stored.is_prefix_caching) == (6, 256, True)
    assert stored.pa_num_blocks is None, "run-time settings lead to no other artifact"
    assert (prepared.config.pa_num_blocks, prepared.config.pa_block_size) == (99, 16)
    assert prepared.artifact.path.parent == own_cache


def test_partial_override_is_filled_with_defaults(folder: Path) -> None:
    stored = ready(folder / "model", "--override-neuron-config", '{"quantized": true}')[0].artifact.neuron_config
    assert stored.weights_format == "int8_group" and stored.seq_len == 512 and stored.enable_bucketing


def test_wrong_override_is_refused_before_compiling(folder: Path, own_cache: Path) -> None:
    with pytest.raises(ConfigError):
        ready(folder / "model", "--num-gpu-blocks-override", "1")
    assert not own_cache.exists()


def test_artifacts_variable(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="add --recompile"):
        ready(folder / "model", environ={"NEURON_COMPILED_ARTIFACTS": "/nothing"})
    environ = {"NEURON_COMPILED_ARTIFACTS": str(tmp_path / "new")}
    made = ready(folder / "model", "--recompile", environ=environ)[0].artifact
    assert made.path == tmp_path / "new"
    assert ready(folder / "model", environ=environ)[0].artifact.manifest == made.manifest


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], None),
        (["--enable-prefix-caching"], True),
        (["--no-enable-prefix-caching"], False),
        (["--enable-prefix-caching", "--override-neuron-config", '{"is_prefix_caching": false}'], False),
    ],
)
def test_prefix_caching_of_this_run(words: list[str], expected: bool | None) -> None:
    assert model_request(parse("/m", *words), {}).engine.enable_prefix_caching is expected


def test_server_settings() -> None:
    found = server_settings(
        parse("--model", "/m/", "--api-key", "a", "b", "--api-key", "c", "--admin-api-key", "r", "--max-logprobs", "5",
              "--served-model-name", "x", "y", "--shutdown-timeout", "3", "--disable-log-requests")
    )  # fmt: skip
    assert found.api_keys == ("a", "b", "c") and found.admin_api_key == "r" and found.served_names == ("x", "y")
    assert found.caps.logprobs == 5 and found.timeouts.shutdown == 3 and not found.request_log
    assert found.host == "127.0.0.1" and found.port == 8000
    engine = engine_settings(parse("--max-queued-requests", "3", "--scheduling-policy", "priority"))
    assert (engine.max_queued_requests, engine.policy) == (3, "priority")
    for words in (
        ["--port", "70000"],
        ["--shutdown-timeout", "-1"],
        ["--max-logprobs", "-2"],
        ["--sse-keep-alive", "nan"],
        ["--allowed-origins", "[1]"],
        ["--allowed-methods", "[a"],
        ["--api-key", ""],
    ):
        with pytest.raises(ConfigError):
            server_settings(parse(*words))


def test_pages_and_other_switches() -> None:
    plain = server_settings(parse())
    assert plain.cors is None and not plain.strict_requests and not plain.sse_keep_alive and not plain.tokenizer_info
    found = server_settings(
        parse("--allowed-origins", '["https://a", "https://b"]', "--allowed-methods", '["POST"]', "--allow-credentials",
              "--strict-requests", "--sse-keep-alive", "15", "--enable-tokenizer-info-endpoint", "--max-logprobs", "-1")
    )  # fmt: skip
    assert found.cors == Cors(("https://a", "https://b"), ("POST",), ("*",), True)
    assert found.strict_requests and found.sse_keep_alive == 15 and found.tokenizer_info
    assert found.caps.logprobs > 1 << 20
    one = server_settings(parse("--allowed-origins", "*")).cors
    assert one is not None and one.origins == ("*",)


def test_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "hidden")
    assert server_settings(parse()).api_keys == ("hidden",)
    assert server_settings(parse("--api-key", "given")).api_keys == ("given",)


@pytest.mark.parametrize("words", [["/m"], ["/m", "--port", "1"], ["--port", "1", "/m"], ["--model", "/m", "/m"]])
def test_the_model_may_stand_alone(words: list[str]) -> None:
    assert model_request(parse(*words), {}).model == "/m" and server_settings(parse(*words)).served_names == ("/m",)
    assert parse().model == "default"


def test_two_models_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("/a", "--model", "/b")
    assert "two models are given, /a and /b" in capsys.readouterr().err


def test_unknown_flags_get_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--max-num-seq", "4")
    assert caught.value.code == 2 and "did you mean '--max-num-seqs'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("configured", "generation", "expected"),
    [
        (None, {}, SamplingDefaults()),
        (None, {"temperature": 0.6, "top_p": 0.9, "top_k": 20}, SamplingDefaults(0.6, 0.9, 20)),
        (None, {"temperature": 0.6, "do_sample": False}, SamplingDefaults(0.0)),
        (None, {"temperature": "hot"}, SamplingDefaults()),
        (None, {"temperature": -3}, SamplingDefaults()),
        ({"do_sample": True}, {"temperature": 0.6}, SamplingDefaults(0.0)),
        ({"do_sample": True, "top_k": 5, "temperature": 0.5, "top_p": 0.8}, {}, SamplingDefaults(0.5, 0.8, 5)),
        ({}, {"temperature": 0.6}, SamplingDefaults(0.0)),
    ],
)
def test_sampling_defaults(
    configured: dict[str, Any] | None, generation: dict[str, Any], expected: SamplingDefaults
) -> None:
    config = None if configured is None else OnDeviceSamplingConfig(**configured)
    assert sampling_defaults(config, generation) == expected

"""forerun serve: the flags of the tutorials' scripts, and what is compared with the artifact."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import pytest

from forerun.cli.main import Parser
from forerun.cli.serve import add_arguments, engine_settings, model_request, notices, server_settings
from forerun.config import NeuronConfig, OnDeviceSamplingConfig
from forerun.errors import ArtifactError, ConfigError, ForerunError
from forerun.server.prepare import Prepared, prepare
from forerun.server.sampling import SamplingDefaults, sampling_defaults
from tests.server.oracle_server import OracleBackend


def parse(*words: str) -> argparse.Namespace:
    parser = Parser(prog="forerun serve", allow_abbrev=False)
    add_arguments(parser)
    return parser.parse_args(words)


def ready(
    *words: str, backend: OracleBackend | None = None, environ: dict[str, str] | None = None
) -> tuple[Prepared, list[str]]:
    lines: list[str] = []
    return prepare(model_request(parse(*words)), backend or OracleBackend(), lines.append, environ or {}), lines


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
def test_tutorial_scripts(name: str) -> None:
    words = ["--model", "/models/Llama/", *TUTORIAL, *SCRIPTS[name]]
    prepared, lines = ready(*words, environ={"NEURON_COMPILED_ARTIFACTS": "/traced/artifact"})
    assert prepared.artifact == Path("/traced/artifact") and prepared.max_model_len == 512
    assert server_settings(parse(*words)).served_names == ("/models/Llama/",)
    said = notices(parse(*words))
    assert "--device neuron: this machine's processor" in said and "--use-v2-block-manager: no effect here" in said
    if name == "prefix 2":
        assert prepared.config.pa_num_blocks == 2048 and prepared.prefix_caching
    if name == "speculation 2":
        assert any("--speculative-model" in line and "tokens are the same" in line for line in said)
        assert any("enable_fused_speculation" in line and "tokens are the same" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tensor-parallel-size", "64"], "more than one rank is not in this version; use 1"),
        (["--device", "cuda"], "--device cuda is not here"),
        (["--override-neuron-config", "{"], "is not JSON"),
        (["--override-neuron-config", "[1]"], "must be a JSON object"),
        (["--override-neuron-config", '{"is_prefix_cachin": true}'], "did you mean 'is_prefix_caching'"),
        (["--override-neuron-config", '{"on_device_sampling_config": {"topk": 1}}'], "did you mean 'top_k'"),
        (["--override-neuron-config", '{"pa_num_blocks": "many"}'], "pa_num_blocks must be a whole number"),
        (["--max-num-seqs", "0"], "--max-num-seqs must be at least 1"),
        (["--max-num-seqs", "9"], "--max-num-seqs 9 (stored 8)"),
        (["--max-model-len", "1024"], "--max-model-len 1024 (stored 512)"),
        (["--kv-cache-dtype", "fp8"], "--kv-cache-dtype fp8 is not here"),
        (["--kv-cache-dtype", "int8"], "kv_cache_quant true (stored false)"),
        (["--quantization", "awq"], "--quantization awq is not here"),
        (["--quantization", "int4"], "was compiled with other settings"),
        (["--dtype", "bfloat16"], "torch_dtype bfloat16 (stored -)"),
        (["--block-size", "7"], "pa_block_size must be one of"),
        (["--num-gpu-blocks-override", "1"], "pa_num_blocks 1 is below the minimum"),
        (["--threads", "-1"], "--threads -1 must not be negative"),
        (["--recompile"], "give --model the checkpoint"),
    ],
)
def test_refusals_are_one_clear_line(words: list[str], message: str) -> None:
    with pytest.raises(ForerunError) as caught:
        ready("--model", "/x/artifact", *words)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_differences_are_printed_before_the_start_is_refused() -> None:
    lines: list[str] = []
    words = ("--model", "/x/artifact", "--max-num-seqs", "16", "--block-size", "16", "--kv-cache-dtype", "int8")
    with pytest.raises(ArtifactError):
        prepare(model_request(parse(*words)), OracleBackend(), lines.append, {})
    table = lines[0].splitlines()
    assert table[0].split() == ["setting", "requested", "artifact"]
    assert any(line.startswith("pa_block_size") and line.endswith("run-time setting") for line in table)
    assert any(line.startswith("--max-num-seqs") and line.endswith("needs a recompile") for line in table)
    assert any(line.startswith("kv_cache_quant") and line.endswith("needs a recompile") for line in table)


def test_less_than_the_artifact_has_is_a_limit_of_this_run() -> None:
    prepared, _ = ready("--model", "/x/artifact", "--max-num-seqs", "2", "--max-model-len", "100")
    assert (prepared.max_num_seqs, prepared.max_model_len) == (2, 100)


def test_compiling_at_the_first_start() -> None:
    backend = OracleBackend()
    prepared, lines = ready(
        *shlex.split("--model /m --max-num-seqs 6 --max-model-len 256 --num-gpu-blocks-override 99 --block-size 16"),
        backend=backend,
    )
    (config,) = backend.compiled
    assert (config.batch_size, config.seq_len) == (6, 256)
    assert config.pa_num_blocks is None, "run-time settings lead to no other artifact"
    assert (prepared.config.pa_num_blocks, prepared.config.pa_block_size) == (99, 16)
    assert prepared.prefix_caching and any("/cache/artifact" in line for line in lines)


def test_partial_override_is_filled_with_defaults() -> None:
    backend = OracleBackend()
    ready("--model", "/m", "--override-neuron-config", '{"quantized": true}', backend=backend)
    assert backend.compiled[0].weights_format == "int8_group" and backend.compiled[0].seq_len == 512


def test_wrong_override_is_refused_before_compiling() -> None:
    backend = OracleBackend()
    with pytest.raises(ConfigError):
        ready("--model", "/m", "--num-gpu-blocks-override", "1", backend=backend)
    assert not backend.compiled


def test_artifacts_variable() -> None:
    with pytest.raises(ArtifactError, match="add --recompile"):
        ready("--model", "/m", environ={"NEURON_COMPILED_ARTIFACTS": "/nothing"})
    backend = OracleBackend()
    prepared, _ = ready("--model", "/m", "--recompile", backend=backend, environ={"NEURON_COMPILED_ARTIFACTS": "/new"})
    assert prepared.artifact == Path("/new") and len(backend.compiled) == 1
    backend = OracleBackend()
    ready("--model", "/m", environ={"NEURON_COMPILED_ARTIFACTS": "/is/artifact"}, backend=backend)
    assert not backend.compiled


@pytest.mark.parametrize(
    ("stored", "words", "expected"),
    [
        (False, [], False),
        (True, [], True),
        (False, ["--enable-prefix-caching"], True),
        (True, ["--no-enable-prefix-caching"], False),
        (True, ["--override-neuron-config", '{"is_prefix_caching": false}'], False),
    ],
)
def test_prefix_caching_of_an_artifact_that_was_given(stored: bool, words: list[str], expected: bool) -> None:
    backend = OracleBackend()
    backend.stored = NeuronConfig.from_dict({"batch_size": 8, "seq_len": 512, "is_prefix_caching": stored})
    assert ready("--model", "/x/artifact", *words, backend=backend)[0].prefix_caching is expected


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
    for words in (["--port", "70000"], ["--shutdown-timeout", "-1"], ["--max-logprobs", "-1"], ["--api-key", ""]):
        with pytest.raises(ConfigError):
            server_settings(parse(*words))


def test_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "hidden")
    assert server_settings(parse()).api_keys == ("hidden",)
    assert server_settings(parse("--api-key", "given")).api_keys == ("given",)


@pytest.mark.parametrize("words", [["/m"], ["/m", "--port", "1"], ["--port", "1", "/m"], ["--model", "/m", "/m"]])
def test_the_model_may_stand_alone(words: list[str]) -> None:
    assert model_request(parse(*words)).model == "/m" and server_settings(parse(*words)).served_names == ("/m",)
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

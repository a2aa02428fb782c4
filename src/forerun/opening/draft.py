"""The draft model of speculation: found or compiled like any other, compared with its target, loaded beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forerun.checkpoint.tokenizer import Tokenizer
from forerun.config import NeuronConfig
from forerun.engine.engine_settings import EngineSettings
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.errors import ConfigError, ForerunError
from forerun.opening.cache import is_artifact
from forerun.opening.request import ModelRequest

INHERITED = ("quantized", "quantization_dtype", "quantization_type", "torch_dtype", "kv_cache_quant")
"""Settings of the target that a draft is compiled with too."""


def draft_request(request: ModelRequest, drafts: SpeculativeConfig, target: NeuronConfig) -> ModelRequest:
    """The draft model of ``drafts``, for as many and as long sequences as its target has. A checkpoint is compiled with
    the target's formats, unless ``drafts`` names one; an artifact is taken as it is."""
    assert drafts.model is not None
    path = drafts.compiled
    settings = {name: request.settings[name] for name in INHERITED if name in request.settings}
    if (kept := request.settings.get("draft_model_modules_to_not_convert")) is not None:
        settings["modules_to_not_convert"] = kept
    if drafts.quantization:
        settings |= {"quantized": True, "quantization_dtype": drafts.quantization}
    again = request.compile == "always" and path is not None
    if is_artifact(drafts.model) or (path is not None and is_artifact(path) and not again):
        settings = {}
    return ModelRequest(
        drafts.model,
        settings,
        EngineSettings(max_num_seqs=target.max_seqs, max_model_len=target.max_length),
        request.run,
        artifact=None if path is None else Path(path),
        compile="always" if again and not is_artifact(drafts.model) else "missing",
        names=request.names,
    )


def beside(config: NeuronConfig, block_size: int, num_blocks: int | None = None) -> NeuronConfig:
    """The draft's configuration with a KV pool under the target's block numbers."""
    shared = {"pa_num_blocks": num_blocks, "pa_block_size": block_size, "windowed_context_encoding_size": None}
    return NeuronConfig.from_dict({**config.to_dict(), **shared})


@contextmanager
def about_draft(model: str) -> Iterator[None]:
    """Errors of the block are raised as errors of the draft model."""
    try:
        yield
    except ForerunError as error:
        raise type(error)(f"draft model {model}: {error}") from None


def compare_tokenizers(target: Tokenizer, draft: Tokenizer, model: str) -> None:
    """Raise ConfigError unless both mean the same by every token that they have."""
    if target.files["tokenizer.json"] == draft.files["tokenizer.json"]:
        return
    for token in range(min(target.vocab_size, draft.vocab_size)):
        mine, other = target.id_to_token(token), draft.id_to_token(token)
        if mine != other:
            raise ConfigError(
                f"draft model {model}: its tokenizer is another one (token {token} is {other!r}, the target's is "
                f"{mine!r}); a draft needs the target's vocabulary"
            )

"""Reference answers and logits from transformers, in float32 on the CPU.

A Hugging Face folder or hub id is loaded by transformers itself; every other checkpoint (GGUF, the default model) is
built from our own reading of it, its weights dequantised.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forerun.accuracy.reference import Answer
from forerun.checkpoint import Checkpoint, ModelConfig, open_checkpoint
from forerun.errors import AccuracyError

Float32 = NDArray[np.float32]

INSTALL = "pip install forerun[parity]"


class HuggingFaceModel:
    """A float32 model of transformers; both a ``Reference`` and a ``Scorer``."""

    name = "transformers"

    def __init__(self, model: Any) -> None:
        """Wrap a loaded causal language model."""
        self._torch = _need("torch")
        self._model = model.eval()

    @staticmethod
    def open(source: str) -> HuggingFaceModel:
        """Load what ``open_checkpoint`` takes. Raises AccuracyError when torch or transformers is missing."""
        transformers, torch = _need("transformers"), _need("torch")
        checkpoint = open_checkpoint(source)
        folder = Path(source).expanduser()
        if not folder.is_dir():
            return HuggingFaceModel.from_checkpoint(checkpoint)
        load = transformers.AutoModelForCausalLM.from_pretrained
        return HuggingFaceModel(load(folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True))

    @staticmethod
    def from_checkpoint(checkpoint: Checkpoint) -> HuggingFaceModel:
        """Build the model from our reading of a checkpoint, one tensor at a time."""
        transformers, torch = _need("transformers"), _need("torch")
        config = transformers.AutoConfig.for_model(checkpoint.config.family, **config_values(checkpoint.config))
        build = transformers.AutoModelForCausalLM.from_config
        model = build(config, dtype=torch.float32, attn_implementation="eager")
        parameters = dict(model.named_parameters())
        if parameters.keys() != checkpoint.tensors.keys():
            odd = ", ".join(sorted(parameters.keys() ^ checkpoint.tensors.keys())[:3])
            raise AccuracyError(f"{checkpoint.source}: transformers describes this model with other tensors ({odd})")
        with torch.no_grad():
            for name, tensor in checkpoint.tensors.items():
                parameters[name].copy_(torch.from_numpy(np.array(tensor.load(), np.float32)))
        return HuggingFaceModel(model)

    def answer(
        self, number: int, prompt_ids: Sequence[int], steps: int, end_ids: Collection[int], want_logits: bool
    ) -> Answer:
        """Answer greedily; the lowest id wins a tie."""
        tokens: list[int] = []
        rows: list[Float32] = []
        part, cache = list(prompt_ids), None
        while len(tokens) < steps and (not tokens or tokens[-1] not in end_ids):
            logits, cache = self._run(part, cache, last=True)
            tokens.append(int(np.argmax(logits[-1])))
            if want_logits:
                rows.append(logits[-1])
            part = tokens[-1:]
        stacked = np.stack(rows) if rows else None
        return Answer(np.asarray(prompt_ids, np.int32), np.asarray(tokens, np.int32), stacked)

    def score(self, ids: Sequence[int], rows: int) -> Iterator[Float32]:
        """Logits [<= rows, vocab] of consecutive slices of ``ids``."""
        cache = None
        for start in range(0, len(ids), rows):
            logits, cache = self._run(ids[start : start + rows], cache, last=False)
            yield logits

    def _run(self, ids: Sequence[int], cache: Any, *, last: bool) -> tuple[Float32, Any]:
        """Feed ``ids`` after what the cache holds: logits of all rows or of the last, and the cache."""
        with self._torch.no_grad():
            given = self._torch.tensor([list(ids)])
            keep = 1 if last else 0
            output = self._model(given, past_key_values=cache, use_cache=True, logits_to_keep=keep)
        return output.logits[0].float().numpy(), output.past_key_values


def config_values(config: ModelConfig) -> dict[str, Any]:
    """Our hyper-parameters as the arguments of transformers' configuration classes."""
    values: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_word_embeddings,
        "hidden_act": config.hidden_act,
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    return values | _rope(config) | _windows(config)


def _rope(config: ModelConfig) -> dict[str, Any]:
    if config.rotary_dim:
        raise AccuracyError("transformers turns whole heads in this architecture; the model turns a part of them")
    scaling = config.rope_scaling
    if scaling is None:
        return {}
    names = {
        "llama3": ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
        "yarn": ("attention_factor", "beta_fast", "beta_slow", "truncate", "original_max_position_embeddings"),
    }
    values = {name: getattr(scaling, name) for name in names.get(scaling.kind, ())}
    return {"rope_scaling": {"rope_type": scaling.kind, "factor": scaling.factor, **values}}


def _windows(config: ModelConfig) -> dict[str, Any]:
    if config.family == "mistral":
        return {"sliding_window": config.sliding_window}
    if config.family not in ("qwen2", "qwen3"):
        return {}
    if config.sliding_window is None:
        return {"use_sliding_window": False, "sliding_window": None}
    used = config.layer_windows or (True,) * config.num_hidden_layers
    return {
        "use_sliding_window": True,
        "sliding_window": config.sliding_window,
        "max_window_layers": used.index(True) if True in used else len(used),
        "layer_types": ["sliding_attention" if on else "full_attention" for on in used],
    }


def _need(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise AccuracyError(
            f"a reference by transformers needs {module}, which is not installed: {INSTALL} "
            "(or give a saved reference with --expected-outputs-path)"
        ) from None

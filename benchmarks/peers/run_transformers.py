"""transformers on PyTorch as a measuring process, see loop.py. weights: "bfloat16" or "float32" (the file's values)."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from loop import Stepper, serve

PIECE = 512


class Transformers(Stepper):
    """Forward passes with the library's own cache; logits of the last position only."""

    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])
        for module in ("accelerate", "gguf"):
            if find_spec(module) is None:
                raise SystemExit(f"transformers needs {module} to read a GGUF file: pip install {module}")
        path = Path(job["model"])
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=getattr(torch, job["weights"])
        ).eval()
        version = f"{transformers.__version__}, torch {torch.__version__}"
        capability = torch.backends.cpu.get_cpu_capability()
        self.facts = {"version": version, "weights": job["weights"], "system": capability}

    def start(self, sequences: int, length: int) -> None:
        self._sequences = sequences
        self._cache: Any = transformers.DynamicCache()

    def fill(self, tokens: int) -> None:
        for start in range(0, tokens, PIECE):
            self._forward(min(PIECE, tokens - start))

    def generate(self, tokens: int) -> None:
        for _ in range(tokens):
            self._forward(1)

    def _forward(self, tokens: int) -> None:
        ids = torch.randint(self._model.config.vocab_size, (self._sequences, tokens))
        with torch.inference_mode():
            out = self._model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = out.past_key_values


serve(Transformers)

"""OpenVINO GenAI as a measuring process, see loop.py: its text pipeline on the GGUF file. weights: "file".

Times are the pipeline's own: until the first token, and from there to the last one.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
from loop import serve


class OpenVino:
    """Every round is one call of the pipeline with prompts of random token ids."""

    def __init__(self, job: dict[str, Any]) -> None:
        hints = {"INFERENCE_NUM_THREADS": job["threads"], "PERFORMANCE_HINT": "LATENCY"}
        self._pipeline = openvino_genai.LLMPipeline(local_copy(job), "CPU", **hints)
        self._vocab = len(self._pipeline.get_tokenizer().get_vocab())
        self._rng = np.random.default_rng(1)
        name = openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")
        self.facts = {"version": openvino_genai.__version__, "weights": "file", "system": name}

    def measure(self, work: dict[str, int]) -> float:
        """See loop.Runner. A prompt has at least one token."""
        if work["pp"]:
            return work["pp"] / self._seconds(1, work["pp"], 1)[0]
        sequences, depth = work["batch"], max(work["depth"], 1)
        return work["tg"] * sequences / self._seconds(sequences, depth, work["tg"] + 1)[1]

    def _seconds(self, sequences: int, prompt: int, new_tokens: int) -> tuple[float, float]:
        """Until the first token, and for the ``new_tokens`` - 1 that follow."""
        ids = openvino.Tensor(self._rng.integers(0, self._vocab, (sequences, prompt)))
        mask = openvino.Tensor(np.ones((sequences, prompt), np.int64))
        config = openvino_genai.GenerationConfig(max_new_tokens=new_tokens, ignore_eos=True, do_sample=False)
        result = self._pipeline.generate(openvino_genai.TokenizedInputs(ids, mask), config)
        lengths = {len(tokens) for tokens in result.tokens}
        if lengths != {new_tokens}:
            raise SystemExit(f"OpenVINO GenAI generated {lengths} tokens instead of {new_tokens}")
        metrics = result.perf_metrics
        first = metrics.get_ttft().mean / 1e3
        return first, metrics.get_generate_duration().mean / 1e3 - first


def local_copy(job: dict[str, Any]) -> str:
    """The file under a folder of its own: the pipeline may write beside it."""
    folder = Path(job["folder"]) / f"openvino-{Path(job['model']).stem}"
    folder.mkdir(exist_ok=True)
    path = folder / Path(job["model"]).name
    if not path.exists():
        os.symlink(Path(job["model"]).resolve(), path)
    return str(path)


serve(OpenVino)

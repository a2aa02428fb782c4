"""llama.cpp through llama-cpp-python as a measuring process, see loop.py. weights: "file", or a type such as "Q4_0"
that the file is requantised to first."""

import random
from pathlib import Path
from typing import Any

import llama_cpp
from loop import Stepper, serve
from requantise import requantise

BATCH_TOKENS = 2048


class LlamaCpp(Stepper):
    """One model; each start makes a context of the needed size."""

    def __init__(self, job: dict[str, Any]) -> None:
        path = job["model"] if job["weights"] == "file" else requantised(job)
        llama_cpp.llama_backend_init()
        self._threads = job["threads"]
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._context: Any = None
        self._size = (0, 0)
        system = llama_cpp.llama_print_system_info().decode()
        self.facts = {"version": llama_cpp.__version__, "weights": job["weights"], "system": system}

    def start(self, sequences: int, length: int) -> None:
        self._sequences, self._at = range(sequences), 0
        if self._size == (sequences, length):
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
            return
        if self._context:
            llama_cpp.llama_free(self._context)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = (length + 64) * sequences, sequences
        params.n_batch, params.n_ubatch = BATCH_TOKENS, 512
        params.n_threads = params.n_threads_batch = self._threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._size = (sequences, length)

    def fill(self, tokens: int) -> None:
        for start in range(0, tokens, BATCH_TOKENS):
            count = min(BATCH_TOKENS, tokens - start)
            for sequence in self._sequences:
                self._decode([sequence], self._at + start, count)
        self._at += tokens

    def generate(self, tokens: int) -> None:
        for _ in range(tokens):
            self._decode(self._sequences, self._at, 1)
            self._at += 1

    def _decode(self, sequences: Any, position: int, count: int) -> None:
        """``count`` tokens of each sequence; the last one of each computes logits."""
        batch = llama_cpp.llama_batch_init(count * len(sequences), 0, 1)
        batch.n_tokens = count * len(sequences)
        for number in range(batch.n_tokens):
            offset = number % count
            batch.token[number], batch.pos[number] = random.randrange(self._vocab), position + offset
            batch.n_seq_id[number], batch.seq_id[number][0] = 1, sequences[number // count]
            batch.logits[number] = offset == count - 1
        failed = llama_cpp.llama_decode(self._context, batch)
        llama_cpp.llama_synchronize(self._context)
        llama_cpp.llama_batch_free(batch)
        if failed:
            raise SystemExit(f"llama_decode failed with {failed}")


def requantised(job: dict[str, Any]) -> str:
    """The file in another type, made once."""
    source = Path(job["model"])
    path = Path(job["folder"]) / f"{source.stem}-{job['weights']}.gguf"
    requantise(source, job["weights"], path)
    return str(path)


serve(LlamaCpp)

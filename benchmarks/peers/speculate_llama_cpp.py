"""llama.cpp through llama-cpp-python, plain and with its prompt lookup decoding, as a measuring process, see loop.py.

Of the job: model, threads, longest (tokens), drafted (tokens of a draft). A work is {"prompt": [ids], "tokens": N,
"drafts": bool}; what is measured is what comes after the first token, greedy.
"""

import time
from typing import Any

import llama_cpp
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
from loop import serve


class Speculating:
    """A model of its own for each way of decoding, since the way is chosen when it is opened."""

    def __init__(self, job: dict[str, Any]) -> None:
        lookup = LlamaPromptLookupDecoding(num_pred_tokens=job["drafted"])
        self._models = {False: opened(job, None), True: opened(job, lookup)}
        self.facts = {"version": llama_cpp.__version__}

    def measure(self, work: dict[str, Any]) -> float:
        model, tokens = self._models[work["drafts"]], work["tokens"]
        model.reset()
        began, count = 0.0, 0
        for token in model.generate(work["prompt"], temp=0.0, repeat_penalty=1.0):
            count += 1
            if count == 1:
                began = time.perf_counter()
            if count == tokens or token == model.token_eos():
                break
        return (count - 1) / (time.perf_counter() - began)


def opened(job: dict[str, Any], draft_model: Any) -> llama_cpp.Llama:
    return llama_cpp.Llama(
        job["model"],
        n_ctx=job["longest"],
        n_batch=job["longest"],  # or its table of logits has too few rows
        n_threads=job["threads"],
        n_threads_batch=job["threads"],
        draft_model=draft_model,
        verbose=False,
    )


serve(Speculating)

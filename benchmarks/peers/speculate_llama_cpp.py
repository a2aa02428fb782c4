"""llama.cpp through llama-cpp-python, plain and with its prompt lookup decoding, as a measuring process.

The first argument is the job (JSON): model (path of the GGUF file), threads, longest (tokens), drafted (tokens of a
draft). Each line {"prompt": [ids], "tokens": N, "drafts": bool} is answered with {"seconds", "tokens"}: what came after
the first token, greedy.
"""

import json
import os
import sys
import time

import llama_cpp
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding


def opened(job, draft_model):
    """A model of its own for each way of decoding, since the way is chosen when it is opened."""
    return llama_cpp.Llama(
        job["model"],
        n_ctx=job["longest"],
        n_batch=job["longest"],  # or its table of logits has too few rows
        n_threads=job["threads"],
        n_threads_batch=job["threads"],
        draft_model=draft_model,
        verbose=False,
    )


def answer(model, prompt, tokens):
    """Seconds and tokens after the first one."""
    model.reset()
    began, count = 0.0, 0
    for token in model.generate(prompt, temp=0.0, repeat_penalty=1.0):
        count += 1
        if count == 1:
            began = time.perf_counter()
        if count == tokens or token == model.token_eos():
            break
    return {"seconds": time.perf_counter() - began, "tokens": count - 1}


def main():
    """Answer until standard input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.loads(sys.argv[1])
    models = {False: opened(job, None), True: opened(job, LlamaPromptLookupDecoding(num_pred_tokens=job["drafted"]))}
    out.write(json.dumps({"version": llama_cpp.__version__}) + "\n")
    out.flush()
    for line in sys.stdin:
        work = json.loads(line)
        out.write(json.dumps(answer(models[work["drafts"]], work["prompt"], work["tokens"])) + "\n")
        out.flush()


main()

"""Mean KL divergence from the float32 weights of one GGUF file: Forerun's formats and llama.cpp's, on the same tokens.

Every model reads the same token ids in the same pieces; the reference is the file's dequantised weights in float32, by
transformers (everything in float32) or by Forerun (--reference forerun: float32 weights and activations, bfloat16 KV
cache). llama.cpp runs through llama-cpp-python in another interpreter; its Q8_0 and Q4_0 files are made from the same
file by llama_model_quantize, and its logits come back as .npy files.

Run: PYTHONPATH=src python benchmarks/kl_vs_llama_cpp.py --llama-python PATH/TO/python --json kl.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from report import output_file, run, run_facts, say, write_json

from forerun.accuracy.divergence import Divergence, chunks, measure
from forerun.accuracy.huggingface import HuggingFaceModel
from forerun.accuracy.in_memory import float32_config, one_sequence_config, open_in_memory
from forerun.accuracy.scoring import SLICE_ROWS, ExecutorScorer, Scorer
from forerun.checkpoint import Checkpoint, Tokenizer, open_checkpoint
from forerun.checkpoint.default_model import default_model_path, is_default_name
from forerun.compiler.compile import plan_compile
from forerun.errors import AccuracyError

INT8: Mapping[str, Any] = {"quantized": True, "quantization_dtype": "int8"}
FORERUN: Mapping[str, Mapping[str, Any]] = {
    "as the file is": {},
    "as the file is, int8 KV": {"kv_cache_quant": True},
    "int8, groups of 32": {**INT8, "quantization_type": "groupwise"},
    "int8 per channel": {**INT8, "quantization_type": "per_channel_symmetric"},
    "int4, groups of 32": {"quantized": True, "quantization_dtype": "int4"},
    "bfloat16": {"torch_dtype": "bfloat16"},
    "float32": {"torch_dtype": "float32"},
}
LLAMA_CPP = {"as the file is": None, "Q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0", "Q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0"}

LLAMA_SCRIPT = """
import json, sys
import llama_cpp, numpy as np
job = json.load(sys.stdin)
path = job["model"]
if job["ftype"]:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = getattr(llama_cpp, job["ftype"]), True, job["threads"]
    if llama_cpp.llama_model_quantize(path.encode(), job["quantized"].encode(), params):
        sys.exit("llama_model_quantize failed")
    path = job["quantized"]
context = max(map(len, job["pieces"]))
model = llama_cpp.Llama(path, n_ctx=context, logits_all=True, n_threads=job["threads"], n_threads_batch=job["threads"],
                        verbose=False)
total = sum(map(len, job["pieces"]))
out = np.lib.format.open_memmap(job["logits"], "w+", np.float32, (total, model.n_vocab()))
at = 0
for piece in job["pieces"]:
    model.reset()
    model.eval(piece)
    out[at:at + len(piece)] = model.scores[:len(piece)]
    at += len(piece)
out.flush()
print(llama_cpp.__version__)
"""


@dataclass(frozen=True)
class Row:
    """One line of the table. megabytes: the weights, or the whole GGUF file for llama.cpp."""

    program: str
    weights: str
    megabytes: float
    figures: Divergence


class Stored:
    """Scores from an .npy file [tokens, vocab] whose rows follow the pieces in order."""

    def __init__(self, path: Path) -> None:
        self._rows: NDArray[np.float32] = np.load(path, mmap_mode="r")
        self._at = 0

    def score(self, ids: Sequence[int], rows: int) -> Iterator[NDArray[np.float32]]:
        """See ``Scorer``."""
        end = self._at + len(ids)
        while self._at < end:
            part = np.asarray(self._rows[self._at : min(self._at + rows, end)])
            self._at += len(part)
            yield part


def main() -> int:
    """Measure everything and print a Markdown table."""
    args = _arguments()
    checkpoint = open_checkpoint(args.model)
    path = default_model_path() if is_default_name(args.model) else Path(args.model)
    ids = _token_ids(Tokenizer(checkpoint.tokenizer_files), args.text, args.tokens)
    digest = hashlib.sha256(np.asarray(ids, np.int32).tobytes()).hexdigest()[:16]
    facts = {**run_facts(), "model": args.model, "tokens": len(ids), "tokens_sha256": digest}
    facts |= {"context": args.context, "reference": args.reference}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="forerun-kl-") as folder:
        for row in _measure(args, checkpoint, path, ids, Path(folder)):
            rows.append(row)
            write_json(args.json, {**facts, "complete": False, "rows": [asdict(row) for row in rows]})
    write_json(args.json, {**facts, "complete": True, "rows": [asdict(row) for row in rows]})
    print(f"\n{len(ids)} tokens (sha256 {digest}) in pieces of {args.context}, reference: {args.reference}, float32\n")
    print(table(rows))
    return 0


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = ["| program | weights | MB | mean KL | 99th percentile KL | top-1 agreement | perplexity |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|")
    for row in rows:
        found = row.figures
        lines.append(
            f"| {row.program} | {row.weights} | {row.megabytes:.1f} | {found.mean_kl:.6f} | {found.kl_p99:.5f} "
            f"| {found.agreement:.2%} | {found.perplexity:.4f} |"
        )
    return "\n".join([*lines, f"\nPerplexity of the reference: {rows[0].figures.reference_perplexity:.4f}"])


def english_text() -> str:
    """The help topics that Python carries: English prose and some code, the same for one version of Python."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default", help="a GGUF file, or 'default' (the default)")
    parser.add_argument("--text", type=Path, help="UTF-8 text (default: Python's help topics)")
    parser.add_argument("--tokens", type=int, default=3072, help="tokens to read (default 3072)")
    parser.add_argument("--context", type=int, default=1024, help="tokens of one piece (default 1024)")
    parser.add_argument("--threads", type=int, default=2, help="of Forerun and llama.cpp (default 2)")
    parser.add_argument(
        "--reference",
        choices=("transformers", "forerun"),
        default="transformers",
        help="who reads the float32 weights (default transformers, which needs torch)",
    )
    parser.add_argument("--llama-python", help="interpreter with llama-cpp-python; without it, Forerun alone")
    parser.add_argument("--only", help="measure only formats whose name contains this text")
    parser.add_argument("--json", type=output_file, help="write the figures there, after each format")
    return parser.parse_args()


def _token_ids(tokenizer: Tokenizer, text: Path | None, count: int) -> list[int]:
    ids = tokenizer.encode(english_text() if text is None else text.read_text("utf-8"))
    if len(ids) < count:
        raise AccuracyError(f"the text has {len(ids)} tokens, --tokens asks for {count}")
    return ids[:count]


def _measure(
    args: argparse.Namespace, checkpoint: Checkpoint, path: Path, ids: Sequence[int], folder: Path
) -> Iterator[Row]:
    pieces = [list(piece) for piece in chunks(ids, args.context)]
    context = min(args.context, len(ids))
    reference = folder / "reference.npy"
    say("reference")
    _store(_reference(args, checkpoint, context), pieces, reference)
    for name, settings in FORERUN.items():
        if args.only and args.only not in name:
            continue
        say(f"forerun {name}")
        config = one_sequence_config(context, **settings)
        executor = open_in_memory(checkpoint, config, threads=args.threads)
        figures = measure(Stored(reference), ExecutorScorer(executor), ids, args.context)
        executor.close()
        yield Row("forerun", name, plan_compile(checkpoint, config).weight_bytes / 1e6, figures)
    for name, ftype in LLAMA_CPP.items() if args.llama_python else ():
        if args.only and args.only not in name:
            continue
        say(f"llama.cpp {name}")
        logits, quantized = folder / "llama.npy", folder / "llama.gguf"
        job = {"model": str(path), "ftype": ftype, "quantized": str(quantized), "threads": args.threads}
        version = _llama(args.llama_python, {**job, "pieces": pieces, "logits": str(logits)})
        size = (quantized if ftype else path).stat().st_size / 1e6
        yield Row(
            f"llama-cpp-python {version}", name, size, measure(Stored(reference), Stored(logits), ids, args.context)
        )


def _reference(args: argparse.Namespace, checkpoint: Checkpoint, context: int) -> Scorer:
    if args.reference == "transformers":
        return HuggingFaceModel.from_checkpoint(checkpoint)
    return ExecutorScorer(open_in_memory(checkpoint, float32_config(context), threads=args.threads))


def _store(scorer: Scorer, pieces: Sequence[Sequence[int]], path: Path) -> None:
    """Write the scores of all pieces as one float32 array."""
    out: NDArray[np.float32] | None = None
    at = 0
    for piece in pieces:
        for rows in scorer.score(piece, SLICE_ROWS):
            if out is None:
                shape = (sum(map(len, pieces)), rows.shape[1])
                out = np.lib.format.open_memmap(path, "w+", np.float32, shape)
            out[at : at + len(rows)] = rows
            at += len(rows)


def _llama(python: str, job: Mapping[str, Any]) -> str:
    """Run the other interpreter; returns its version of llama-cpp-python."""
    command = [python, "-c", LLAMA_SCRIPT]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise AccuracyError(f"--llama-python {python}: llama-cpp-python failed ({reason})")
    return done.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    run(main)

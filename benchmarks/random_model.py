"""Writes a GGUF file with the shape of a well-known Llama model and random weights, for speed measurements.

The matrices hold random 4- or 8-bit blocks with scales of a sensible size, drawn and written piece by piece, so that
the 8B shape needs 5 GB of disk and little memory. The text that such a model writes means nothing; the work per token
is that of the real one. Forerun and llama.cpp both read the file.

Run: python benchmarks/random_model.py 1b --output random-1b.gguf
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from numpy.typing import NDArray

BLOCKS = {"Q4_0": (32, 18, 4.6), "Q8_0": (32, 34, 74.0)}
"""Type -> (weights per block, bytes per block, standard deviation of the stored integers)."""

PIECE_BLOCKS = 1 << 20
SPECIAL = ("<unk>", "<s>", "</s>")
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder; ``tied``: the embedding is the head, too."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool


SHAPES = {
    "135m": Shape(30, 576, 1536, 9, 3, 64, 49152, True),
    "1b": Shape(16, 2048, 8192, 32, 8, 64, 128256, True),
    "3b": Shape(28, 3072, 8192, 24, 8, 128, 128256, True),
    "8b": Shape(32, 4096, 14336, 32, 8, 128, 128256, False),
}


def main() -> int:
    """Write the file and say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES, help="the model whose layers, heads and vocabulary it has")
    parser.add_argument("--output", type=Path, required=True, help="the .gguf file")
    parser.add_argument("--type", choices=BLOCKS, default="Q4_0", help="type of all matrices (default Q4_0)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default 0)")
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    need = file_bytes(shape, args.type)
    free = shutil.disk_usage(args.output.absolute().parent).free
    if need > free:
        print(f"error: {args.output} needs {need / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free", file=sys.stderr)
        return 1
    began = time.perf_counter()
    write(args.output, shape, args.type, args.seed, f"random {args.shape}")
    print(f"{args.output}: {args.output.stat().st_size / 1e9:.2f} GB in {time.perf_counter() - began:.0f} s")
    return 0


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes ([N, K] or [N]) in the order of the file."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield "token_embd.weight", (shape.vocab, shape.hidden)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", (shape.hidden,)
        yield block + "attn_q.weight", (queries, shape.hidden)
        yield block + "attn_k.weight", (keys, shape.hidden)
        yield block + "attn_v.weight", (keys, shape.hidden)
        yield block + "attn_output.weight", (shape.hidden, queries)
        yield block + "ffn_norm.weight", (shape.hidden,)
        yield block + "ffn_gate.weight", (shape.ffn, shape.hidden)
        yield block + "ffn_up.weight", (shape.ffn, shape.hidden)
        yield block + "ffn_down.weight", (shape.hidden, shape.ffn)
    yield "output_norm.weight", (shape.hidden,)
    if not shape.tied:
        yield "output.weight", (shape.vocab, shape.hidden)


def tensor_bytes(dimensions: tuple[int, ...], kind: str) -> int:
    """Vectors are float32, matrices blocks of ``kind``."""
    weights, nbytes, _ = BLOCKS[kind]
    count = int(np.prod(dimensions))
    return 4 * count if len(dimensions) == 1 else count // weights * nbytes


def file_bytes(shape: Shape, kind: str) -> int:
    """Size of the tensors, with some room for the header."""
    return sum(tensor_bytes(dimensions, kind) for _, dimensions in tensors(shape)) + (32 << 20)


def write(path: Path, shape: Shape, kind: str, seed: int, name: str) -> None:
    """Write header, tokenizer and tensors; nothing larger than a piece is held in memory."""
    writer = GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocab)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_tokenizer(writer, shape.vocab)
    for tensor, dimensions in tensors(shape):
        target = GGMLQuantizationType.F32 if len(dimensions) == 1 else GGMLQuantizationType[kind]
        writer.add_tensor_info(
            tensor, dimensions, np.dtype(np.float32), tensor_bytes(dimensions, kind), raw_dtype=target
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    file = writer.fout[0]
    rng = np.random.default_rng(seed)
    for _, dimensions in tensors(shape):
        writer.write_padding(file, file.tell())
        for piece in values(rng, dimensions, kind):
            piece.tofile(file)
    writer.write_padding(file, file.tell())
    writer.close()


def values(
    rng: np.random.Generator, dimensions: tuple[int, ...], kind: str
) -> Iterator[NDArray[np.float32] | NDArray[np.uint8]]:
    """A norm of ones, or blocks: a float16 scale and random integers; weights of deviation 1 / sqrt(K)."""
    if len(dimensions) == 1:
        yield np.ones(dimensions, np.float32)
        return
    weights, nbytes, deviation = BLOCKS[kind]
    count = dimensions[0] * dimensions[1] // weights
    scale = np.array([1 / (deviation * dimensions[1] ** 0.5)], "<f2").view(np.uint8)
    for start in range(0, count, PIECE_BLOCKS):
        blocks = np.frombuffer(bytearray(rng.bytes(min(PIECE_BLOCKS, count - start) * nbytes)), np.uint8)
        blocks = blocks.reshape(-1, nbytes)
        blocks[:, :2] = scale
        yield blocks


def add_tokenizer(writer: GGUFWriter, vocab: int) -> None:
    """Byte-level: three special tokens, the 256 bytes, one merge, and texts that never occur."""
    tokens = [*SPECIAL, *byte_texts(), "th"]
    tokens += [f"<{number}>" for number in range(len(tokens), vocab)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if text in SPECIAL else TokenType.NORMAL for text in tokens])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)


def byte_texts() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


if __name__ == "__main__":
    sys.exit(main())

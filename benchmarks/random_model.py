"""Writes a GGUF file with the shape of a well-known Llama model and random weights, for speed measurements.

The matrices hold random blocks with scales of a sensible size, drawn and written piece by piece, so that
the 8B shape needs 5 GB of disk and little memory. The text that such a model writes means nothing; the work per token
is that of the real one. Forerun and llama.cpp both read the file.

With --faint-from the layers from there on add little to what the ones before them say, and a second file of the same
seed with only those (--layers) is a draft model for it.

Run: python benchmarks/random_model.py 1b --output random-1b.gguf
     python benchmarks/random_model.py 1b --output target.gguf --faint-from 5 --faint 0.1
     python benchmarks/random_model.py 1b --output draft.gguf --layers 5
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from numpy.typing import NDArray


@dataclass(frozen=True)
class Block:
    """A block type: weights and bytes of one, where its float16 scale is, the standard deviation of a random weight in
    units of that scale, and (types with minima) where the float16 unit of minima is and how many scales it must be."""

    weights: int
    nbytes: int
    scale_at: int
    deviation: float
    minimum_at: int = -1
    minimum: float = 0.0


BLOCKS = {
    "Q4_0": Block(32, 18, 0, 4.6),
    "Q8_0": Block(32, 34, 0, 74.0),
    "Q4_K": Block(256, 144, 0, 258.0, 2, 7.5),
    "Q5_K": Block(256, 176, 0, 524.0, 2, 15.5),
    "Q6_K": Block(256, 210, 208, 1367.0),
}
TYPES = (*BLOCKS, "Q4_K_M")
"""Of all matrices; Q4_K_M is the mixture that llama.cpp's quantiser makes under that name: Q4_K, with Q6_K for the head
and for half of the layers' attn_v and ffn_down."""

PIECE_BLOCKS = 1 << 18
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


@dataclass(frozen=True)
class Faint:
    """Layers from ``first`` on add ``share`` of what others add."""

    first: int
    share: float

    def of(self, tensor: str) -> float:
        """What the weights of ``tensor`` are multiplied by."""
        parts = tensor.split(".")
        adds = parts[0] == "blk" and parts[2] in ("attn_output", "ffn_down")
        return self.share if adds and int(parts[1]) >= self.first else 1.0


def main() -> int:
    """Write the file and say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES, help="the model whose layers, heads and vocabulary it has")
    parser.add_argument("--output", type=Path, required=True, help="the .gguf file")
    parser.add_argument("--type", choices=TYPES, default="Q4_0", help="type of all matrices (default Q4_0)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default 0)")
    parser.add_argument("--layers", type=int, help="the first ones only (default: all)")
    parser.add_argument("--faint-from", type=int, metavar="LAYER", help="first of the layers that say little")
    parser.add_argument("--faint", type=float, default=0.1, help="their outputs over those of others (default 0.1)")
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    if args.layers is not None:
        if not 1 <= args.layers <= shape.layers:
            parser.error(f"--layers must be within 1..{shape.layers}, not {args.layers}")
        shape = replace(shape, layers=args.layers)
    faint = Faint(shape.layers if args.faint_from is None else args.faint_from, args.faint)
    need = file_bytes(shape, args.type)
    free = shutil.disk_usage(args.output.absolute().parent).free
    if need > free:
        print(f"error: {args.output} needs {need / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free", file=sys.stderr)
        return 1
    began = time.perf_counter()
    write(args.output, shape, args.type, args.seed, f"random {args.shape}", faint)
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


def type_of(tensor: str, kind: str, layers: int) -> str:
    """The block type of one matrix."""
    if kind != "Q4_K_M":
        return kind
    if tensor in ("token_embd.weight", "output.weight"):
        return "Q6_K"
    layer, part = int(tensor.split(".")[1]), tensor.split(".")[2]
    ends = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    return "Q6_K" if part in ("attn_v", "ffn_down") and ends else "Q4_K"


def tensor_bytes(tensor: str, dimensions: tuple[int, ...], kind: str, layers: int) -> int:
    """Vectors are float32, matrices blocks."""
    count = int(np.prod(dimensions))
    if len(dimensions) == 1:
        return 4 * count
    block = BLOCKS[type_of(tensor, kind, layers)]
    return count // block.weights * block.nbytes


def file_bytes(shape: Shape, kind: str) -> int:
    """Size of the tensors, with some room for the header."""
    return sum(tensor_bytes(*tensor, kind, shape.layers) for tensor in tensors(shape)) + (32 << 20)


def write(path: Path, shape: Shape, kind: str, seed: int, name: str, faint: Faint) -> None:
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
        target = "F32" if len(dimensions) == 1 else type_of(tensor, kind, shape.layers)
        nbytes = tensor_bytes(tensor, dimensions, kind, shape.layers)
        writer.add_tensor_info(tensor, dimensions, np.dtype(np.float32), nbytes, raw_dtype=GGMLQuantizationType[target])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    file = writer.fout[0]
    rng = np.random.default_rng(seed)
    for tensor, dimensions in tensors(shape):
        writer.write_padding(file, file.tell())
        if len(dimensions) == 1:
            pieces = norm(dimensions)
        else:
            pieces = blocks(rng, dimensions, type_of(tensor, kind, shape.layers), faint.of(tensor))
        for piece in pieces:
            piece.tofile(file)
    writer.write_padding(file, file.tell())
    writer.close()


def norm(dimensions: tuple[int, ...]) -> Iterator[NDArray[np.generic]]:
    """Ones."""
    yield np.ones(dimensions, np.float32)


def blocks(
    rng: np.random.Generator, dimensions: tuple[int, ...], kind: str, share: float
) -> Iterator[NDArray[np.generic]]:
    """Random bytes with float16 scales that give the weights a deviation of share / sqrt(K) and a mean of zero."""
    block = BLOCKS[kind]
    count = dimensions[0] * dimensions[1] // block.weights
    scale = share / (block.deviation * dimensions[1] ** 0.5)
    for start in range(0, count, PIECE_BLOCKS):
        rows = min(PIECE_BLOCKS, count - start)
        piece = np.frombuffer(bytearray(rng.bytes(rows * block.nbytes)), np.uint8).reshape(rows, block.nbytes)
        for at, value in ((block.scale_at, scale), (block.minimum_at, scale * block.minimum)):
            if at >= 0:
                piece[:, at : at + 2] = np.array([value], "<f2").view(np.uint8)
        yield piece


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

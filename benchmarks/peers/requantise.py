"""A GGUF file in another type, made with llama.cpp: python requantise.py SOURCE TYPE TARGET, TYPE as in "Q4_K_M"."""

import ctypes
import os
import sys
from pathlib import Path

import llama_cpp


def requantise(source: Path, kind: str, target: Path) -> None:
    """Writes the file, unless it is there. Raises SystemExit with one line."""
    if target.exists():
        return
    params = llama_cpp.llama_model_quantize_default_params()
    ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}", None)
    if ftype is None:
        raise SystemExit(f"llama.cpp knows no type {kind}")
    params.ftype, params.allow_requantize, params.nthread = ftype, True, os.cpu_count()
    partial = target.with_suffix(".partial")
    if llama_cpp.llama_model_quantize(str(source).encode(), str(partial).encode(), ctypes.byref(params)):
        raise SystemExit(f"llama.cpp cannot make {kind} of {source}")
    partial.rename(target)


if __name__ == "__main__":
    requantise(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))

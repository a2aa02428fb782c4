"""An artifact does not depend on the processor that compiled it: NumPy takes other loops where it finds AVX-512."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tiny_checkpoints import write_tiny

FOUND: list[str] = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def compiled(folder: Path, output: Path, environment: dict[str, str], *flags: str) -> dict[str, str]:
    """Compile in a process of its own; the digest of each file."""
    command = [sys.executable, "-m", "forerun.cli.main", "compile", str(folder), "--output", str(output), *flags]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = [path for path in output.rglob("*") if path.is_file()]
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.skipif(not FOUND, reason="NumPy has one set of loops for this processor")
@pytest.mark.parametrize(
    ("family", "dtype", "keys", "flags"),
    [
        ("llama", "float32", {"rope_parameters": {**LLAMA3, "rope_theta": 500000.0}}, ["--quantization-dtype", "int4"]),
        ("qwen2", "bfloat16", {"rope_parameters": {**YARN, "rope_theta": 1000000.0}}, ["--quantization-dtype", "int8"]),
        ("qwen3", "float16", {}, ["--quantization-dtype", "bfloat16"]),
        ("mistral", "float32", {}, ["--quantization-dtype", "int8", "--quantization-type", "per_tensor_symmetric"]),
    ],
)
def test_every_processor_compiles_the_same(
    tmp_path: Path, family: str, dtype: str, keys: dict[str, Any], flags: list[str]
) -> None:
    folder = write_tiny(tmp_path / "model", family, dtype=dtype, **keys)
    here = compiled(folder, tmp_path / "here", {}, *flags)
    plain = compiled(folder, tmp_path / "plain", {"NPY_DISABLE_CPU_FEATURES": " ".join(FOUND)}, *flags)
    assert "program.json" in here and here == plain

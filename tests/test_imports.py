"""The order of the packages: imports go downwards only, files stay small, and nothing heavy slips into the run time."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import forerun

PACKAGE = Path(forerun.__file__).parent
LAYERS = (
    ("entrypoints", "ray", ""),
    ("cli",),
    ("replicas",),
    ("library", "server"),
    ("accuracy", "planner", "training"),
    ("opening",),
    ("distributed", "measure"),
    ("engine",),
    ("kvcache", "runtime"),
    ("compiler",),
    ("models",),
    ("checkpoint",),
    ("config", "grammar", "host"),
    ("json_text", "progress"),
    ("errors", "whole_file", "_native"),
)
"""From top to bottom ("" is forerun/__init__.py).
A package imports itself and what lies below; neighbours on one level do not know each other."""
RANK = {name: level for level, names in enumerate(LAYERS) for name in names}
CLIENTS = ("bench",)
"""Programs of their own that speak to a server over the network: only the command line may import them."""
OF_CLIENTS = ("errors", "json_text", "whole_file")
"""What they may import."""

_TORCH = ("accuracy", "distributed", "training")
OPTIONAL = {"torch": _TORCH, "transformers": _TORCH, "ray": ("ray",)}
"""From extras; only these packages, which nobody needs without the extra until asked, may name them."""
NEVER = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
"""Loading data with these runs code from the data."""
MOST_LINES = 350


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def package_of(path: Path) -> str:
    """First part of the path below forerun, "" for forerun/__init__.py."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported(text: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, also inside functions, under TYPE_CHECKING and by ``import_module``."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level
            elif node.module == "forerun":
                yield from ((node.lineno, f"forerun.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, str(node.module)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                yield node.lineno, str(node.args[0].value)


def complaint(package: str, name: str) -> str | None:
    """What is wrong with ``package`` importing ``name``, or None."""
    root, _, rest = name.partition(".")
    if not root:
        return "relative imports hide the order: write the full name"
    if root in NEVER:
        return f"{root} runs code from data"
    if root in OPTIONAL:
        return None if package in OPTIONAL[root] else f"{root} comes from an extra; only {OPTIONAL[root]} may name it"
    if root != "forerun":
        return None
    target = rest.partition(".")[0]
    if not target or target == package:
        return None
    if package in CLIENTS:
        return None if target in OF_CLIENTS else f"{package} is a client and imports nothing of the server side"
    if target in CLIENTS:
        return None if package == "cli" else f"only cli imports {target}"
    if package not in RANK or target not in RANK:
        return f"no place in LAYERS for {package if package not in RANK else target}"
    return None if RANK[target] > RANK[package] else f"{package} lies below or beside {target}"


def test_imports_go_downwards_only() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: imports {name}: {reason}"
        for path in sources()
        for line, name in imported(path.read_text("utf-8"))
        if (reason := complaint(package_of(path), name)) is not None
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_one_idea(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= MOST_LINES, f"{lines} lines: look for the second idea in it"


@pytest.mark.parametrize(
    ("package", "code", "fine"),
    [
        ("engine", "from forerun.runtime.step import Executor", True),
        ("engine", "from forerun.engine.request import Request", True),
        ("engine", "import forerun.server.app", False),
        ("engine", "def late():\n    from forerun.server import app", False),
        ("engine", "from forerun import server", False),
        ("kvcache", "from forerun.runtime.step import Int32", False),
        ("runtime", "from forerun.kvcache.blocks import Blocks", False),
        ("config", "from forerun.errors import ConfigError", True),
        ("errors", "from forerun.config import NeuronConfig", False),
        ("runtime", "from forerun import _native", True),
        ("runtime", "from forerun.host.machine import Host", True),
        ("host", "from forerun.runtime.native import NativeExecutor", False),
        ("measure", "from forerun.engine.engine import Engine", True),
        ("runtime", "from .step import Executor", False),
        ("newcomer", "from forerun.errors import ForerunError", False),
        ("bench", "from forerun.errors import ForerunError", True),
        ("bench", "from forerun.config import NeuronConfig", False),
        ("", "from forerun.library import LLM", True),
        ("cli", "from forerun.library import LLM", True),
        ("library", "from forerun.cli.main import main", False),
        ("library", "from forerun.engine.generator import Generator", True),
        ("server", "from forerun.opening import OpenedModel", True),
        ("opening", "from forerun.server.server_settings import ServerSettings", False),
        ("planner", "from forerun.opening import new_config", True),
        ("planner", "from forerun.accuracy.checks import check_accuracy", False),
        ("measure", "from forerun.planner.plan import Plan", False),
        ("cli", "from forerun.bench.load import run", True),
        ("server", "from forerun.bench.load import run", False),
        ("runtime", "import torch.nn", False),
        ("runtime", "from importlib import import_module\nimport_module('transformers')", False),
        ("accuracy", "import importlib\nimportlib.import_module('torch')", True),
        ("accuracy", "import pickle", False),
        ("checkpoint", "import numpy, json", True),
        ("ray", "from ray import serve", True),
        ("replicas", "import ray", False),
        ("replicas", "from forerun.server.gate import Gate", True),
        ("server", "from forerun.replicas.front import Front", False),
    ],
)
def test_the_rule_itself(package: str, code: str, fine: bool) -> None:
    assert all(complaint(package, name) is None for _, name in imported(code)) is fine


def test_importing_forerun_is_cheap() -> None:
    code = "import sys, forerun; print([name for name in sys.modules if name.startswith(('forerun.', 'numpy'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

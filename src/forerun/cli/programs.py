"""The programs that the package installs. Ctrl-C ends them without a word while they only import, and when all is done.

Imports as little as it can: until this module runs, Ctrl-C is answered by Python with a traceback.
"""

import sys

try:
    import signal
    from importlib import import_module
except KeyboardInterrupt:
    sys.exit(130)


def forerun() -> int:
    """``forerun``"""
    return _run("forerun.cli.main", "main")


def inference_demo() -> int:
    """``inference_demo``"""
    return _run("forerun.cli.inference_demo", "main")


def token_benchmark_ray() -> int:
    """``token_benchmark_ray``"""
    return _run("forerun.cli.bench_load", "entry")


def serve() -> int:
    """``python -m forerun.entrypoints.openai.api_server``"""
    return _run("forerun.cli.serve", "main")


def _run(module: str, function: str) -> int:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored, as under nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    status: int = getattr(import_module(module), function)()
    return status

"""The programs that the package installs. Ctrl-C ends them without a word while they only import, and when all is done;
missing memory ends them with a line.

Imports as little as it can: until this module runs, Ctrl-C is answered by Python with a traceback.
"""

import sys

try:
    import os
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


def serve_replica() -> int:
    """One of the servers of ``forerun serve --data-parallel-size``, which starts it."""
    return _run("forerun.cli.serve_replicas", "replica_main")


def _run(module: str, function: str) -> int:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored, as under nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from forerun.cli import address_space

    _prepare_standard_streams()
    problem = "" if sys.argv[1:] == ["--version"] else address_space.refusal()
    if problem:
        return _fail(problem)
    address_space.use_few_threads()
    try:
        status: int = getattr(import_module(module), function)()
    except MemoryError:
        return _fail(address_space.failure() or "out of memory")
    except (ImportError, OSError, SystemError) as error:
        problem = address_space.failure()
        if isinstance(error, OSError):
            problem = problem or str(error)
        if not problem:
            raise
        return _fail(problem)
    return status


def _prepare_standard_streams() -> None:
    """Whoever closed one of them gets nothing there; no file of ours may take its number. Letters that a terminal does
    not know are written as their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None and os.open(os.devnull, os.O_RDWR) == number:
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))
    if getattr(sys.stdout, "errors", "") == "strict" or getattr(sys.stdout, "encoding", "") != "utf-8":
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _fail(line: str) -> int:
    print(f"error: {line}", file=sys.stderr)
    return 1

"""``python -m forerun.entrypoints.openai.api_server``: forerun serve under the name that vLLM scripts use."""

from __future__ import annotations

import sys

from forerun.cli.programs import serve

if __name__ == "__main__":
    sys.exit(serve())

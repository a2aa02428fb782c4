"""Models of the Hugging Face hub, through huggingface_hub and its cache."""

from __future__ import annotations

import os
import re
from pathlib import Path

from forerun.checkpoint.hf import INDEX_FILE, SINGLE_FILE, TOKENIZER_FILES
from forerun.errors import CheckpointError

ALLOWED_FILES = ("config.json", *TOKENIZER_FILES, SINGLE_FILE, "model-*-of-*.safetensors", INDEX_FILE)
"""What is fetched: configuration, tokenizer and safetensors. Never a pickle."""

_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(@(?P<revision>[\w./-]{1,200}))?")
_TRUE = ("1", "ON", "YES", "TRUE")


def is_hub_id(source: str) -> bool:
    """Whether ``source`` reads like "organisation/name" or "organisation/name@revision"."""
    return _HUB_ID.fullmatch(source) is not None


def fetch(source: str) -> Path:
    """Return the folder with the files of a hub id, downloading what the cache lacks.

    With HF_HUB_OFFLINE=1 only the cache is used. Raises CheckpointError when the model cannot be had.
    """
    match = _HUB_ID.fullmatch(source)
    if match is None:
        raise CheckpointError(f"'{source}' is not a hub id; write organisation/name or organisation/name@revision")
    repo, revision = match["repo"], match["revision"]
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
    from huggingface_hub.errors import RevisionNotFoundError as NoRevision

    try:
        folder = snapshot_download(
            repo, revision=revision, allow_patterns=list(ALLOWED_FILES), local_files_only=offline
        )
    except GatedRepoError:
        raise CheckpointError(f"{repo}: access is restricted; accept its terms on the hub and set HF_TOKEN") from None
    except NoRevision:
        raise CheckpointError(f"{repo}: there is no revision '{revision}'") from None
    except RepositoryNotFoundError:
        raise CheckpointError(f"{repo}: no such folder here and no such model on the hub (or it is private)") from None
    except LocalEntryNotFoundError:
        reason = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
        raise CheckpointError(f"{source}: not a folder here, not in the hub cache, and {reason}") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{source}: it cannot be fetched from the hub ({type(error).__name__}: {reason})"
        ) from None
    return Path(folder)

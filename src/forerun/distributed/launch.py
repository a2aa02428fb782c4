"""How this process was started, as torchrun tells it through the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from forerun.config.parallel import MOST_RANKS
from forerun.errors import ConfigError

SECRET_VARIABLE = "FORERUN_RANK_SECRET"
TIMEOUT_VARIABLE = "FORERUN_RANK_TIMEOUT"
DEFAULT_TIMEOUT = 4.0
"""Seconds without a word after which a member counts as gone."""


@dataclass(frozen=True)
class Launch:
    """This process is number ``member`` of ``members``. ``secret``: what all of them must know. ``address``: where they
    meet. ``timeout``: seconds that a member may be silent while a step runs, or between two of them. ``beside``: this
    process's number among those on this host, and how many these are."""

    member: int
    members: int
    address: str
    secret: str = ""
    timeout: float = DEFAULT_TIMEOUT
    beside: tuple[int, int] = (0, 1)

    @property
    def leads(self) -> bool:
        """Whether this is the process that serves."""
        return self.member == 0

    @property
    def loopback(self) -> bool:
        """Whether all members are on this host."""
        return self.address in ("127.0.0.1", "localhost", "::1")


def launched(environ: Mapping[str, str] = os.environ) -> Launch | None:
    """What torchrun says; None in a process that it did not start, or started alone. Raises ConfigError."""
    if "TORCHELASTIC_RUN_ID" not in environ:
        return None
    member, members = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
    if members == 1:
        return None
    if not member < members:
        raise ConfigError(f"RANK {member} of WORLD_SIZE {members}: processes count from 0 to {members - 1}")
    if members > MOST_RANKS:
        raise ConfigError(f"WORLD_SIZE {members}: there can be at most {MOST_RANKS} processes")
    text = environ.get(TIMEOUT_VARIABLE, str(DEFAULT_TIMEOUT))
    try:
        timeout = float(text)
    except ValueError:
        timeout = 0.0
    if not 0.5 <= timeout <= 600:
        raise ConfigError(f"{TIMEOUT_VARIABLE}={text:.40} must be a number of seconds from 0.5 to 600")
    address = environ.get("MASTER_ADDR", "127.0.0.1")
    beside = (_number(environ, "LOCAL_RANK"), _number(environ, "LOCAL_WORLD_SIZE"))
    if not beside[0] < beside[1] <= members:
        raise ConfigError(f"LOCAL_RANK {beside[0]} and LOCAL_WORLD_SIZE {beside[1]} of {members} processes")
    launch = Launch(member, members, address, environ.get(SECRET_VARIABLE, ""), timeout, beside)
    if not launch.loopback and not launch.secret:
        raise ConfigError(
            f"{SECRET_VARIABLE} is needed when ranks meet at {address}: give every process the same long random text"
        )
    return launch


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise ConfigError(f"{name}={text:.40} is no number of a process: start this command with torchrun")
    return int(text)

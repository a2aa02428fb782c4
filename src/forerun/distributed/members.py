"""The processes of a rank group and how they meet: an all-gather, and what the leader tells its followers."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np

from forerun.distributed.interface import interface_towards
from forerun.distributed.launch import SECRET_VARIABLE, Launch
from forerun.distributed.wire import packed
from forerun.errors import ConfigError
from forerun.progress import say
from forerun.runtime.ranks import Bytes, Finish, RankGroup, begins_of
from forerun.runtime.step import ExecutorLostError, StepInput

JOIN_SECONDS = 600.0
"""The longest wait for the others to come, while they load or compile."""
CONNECT_SECONDS = 30.0
"""The longest wait for connections among those that are there."""
_FIRST = 4096
"""Bytes of a message that travel with its length; most steps of decoding fit."""
_MOST_MESSAGE = 1 << 30
_DIGEST = 32
_SHOWN = 80
"""Characters of a value that an error shows."""
END = b"end"
IDLE = b"idle"


class Link:
    """Collectives over torch.distributed with gloo, whose waits all end: ExecutorLostError says that a member is gone
    or silent."""

    def __init__(self, launch: Launch) -> None:
        try:
            import torch
            import torch.distributed as dist
        except ImportError:
            raise ConfigError("ranks in several processes need torch: pip install 'forerun[distributed]'") from None
        if interface := interface_towards(launch.address):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        torch.set_num_threads(1)  # the cores are the executor's
        self._torch, self._dist, self.launch = torch, dist, launch
        self.lost = ""  # why nothing will ever be exchanged again
        try:
            self._connect()
            self._join = dist.new_group(backend="gloo", timeout=timedelta(seconds=JOIN_SECONDS))
            self._steps = dist.new_group(backend="gloo", timeout=timedelta(seconds=launch.timeout))
        except (RuntimeError, ValueError) as error:
            over = os.environ.get("GLOO_SOCKET_IFNAME", "any interface")
            raise ConfigError(
                f"the ranks do not meet at {launch.address} over {over} (GLOO_SOCKET_IFNAME chooses another one): "
                f"{_reason(error)}"
            ) from None
        self._gather: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor

    def _connect(self) -> None:
        """Wait until all have come, which may take them long; then connecting takes none of them long."""
        from torch.distributed.rendezvous import rendezvous

        dist, patience = self._dist, timedelta(seconds=JOIN_SECONDS)
        connecting = timedelta(seconds=CONNECT_SECONDS)
        there = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun's own store, older than any member
        store, rank, size = next(rendezvous("env://", timeout=connecting if there else patience))
        store.set(f"forerun/{rank}", "here")
        store.wait([f"forerun/{member}" for member in range(size)], patience)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=connecting)

    def all_gather(self, send: Bytes, counts: Sequence[int], *, joining: bool = False) -> Finish:
        """Begins to gather ``counts[m]`` bytes of every member m. What is returned waits for them and puts them, one
        after the other, where it is told; the arrays of what is on its way are gloo's own."""
        most = max(counts)
        padded = np.zeros(most, np.uint8)
        padded[: len(send)] = send
        everything = np.empty((len(counts), most), np.uint8)
        own, to = self._torch.from_numpy(padded), self._torch.from_numpy(everything.reshape(-1))
        with self._losing_members():
            work = self._gather(to, own, group=self._join if joining else self._steps, async_op=True)

        def finish(receive: Bytes) -> None:
            with self._losing_members():
                work.wait()
            at = 0
            for member, count in enumerate(counts):
                receive[at : at + count] = everything[member, :count]
                at += count

        return finish

    def tell(self, message: bytes) -> None:
        """The leader's message to all."""
        head = np.zeros(_FIRST, np.uint8)
        head[:8].view(np.int64)[0] = len(message)
        data = np.frombuffer(message, np.uint8)
        head[8 : 8 + min(len(data), _FIRST - 8)] = data[: _FIRST - 8]
        self._broadcast(head)
        if len(data) > _FIRST - 8:
            self._broadcast(data[_FIRST - 8 :].copy())

    def hear(self) -> bytes:
        """The leader's next message."""
        head = np.zeros(_FIRST, np.uint8)
        self._broadcast(head)
        length = int(head[:8].view(np.int64)[0])
        if not 0 <= length <= _MOST_MESSAGE:
            raise ExecutorLostError("the leader's message makes no sense")
        rest = np.zeros(max(0, length - (_FIRST - 8)), np.uint8)
        if len(rest):
            self._broadcast(rest)
        return head[8 : 8 + length].tobytes() + rest.tobytes()

    def _broadcast(self, data: Bytes) -> None:
        with self._losing_members():
            self._dist.broadcast(self._torch.from_numpy(data), 0, group=self._steps)

    def meet(self) -> None:
        """Returns when all members have called it."""
        one = [1] * self.launch.members
        self.all_gather(np.zeros(1, np.uint8), one)(np.empty(len(one), np.uint8))

    def gathered(self, own: bytes) -> list[bytes]:
        """Every member's bytes, all of one length; while they join."""
        counts = [len(own)] * self.launch.members
        receive = np.empty(sum(counts), np.uint8)
        self.all_gather(np.frombuffer(own, np.uint8), counts, joining=True)(receive)
        return [each.tobytes() for each in receive.reshape(len(counts), -1)]

    def close(self) -> None:
        """Give the connections back."""
        with suppress(RuntimeError, AssertionError, ValueError):
            self._dist.destroy_process_group()

    @contextmanager
    def _losing_members(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            timeout, reason = self.launch.timeout, _reason(error)
            self.lost = f"a rank in another process is gone, or was silent for {timeout:g} s ({reason})"
            raise ExecutorLostError(self.lost) from None


@dataclass(frozen=True)
class Members(RankGroup):
    """A rank group over a link. The leader tells its followers each step and, in between, that it is there."""

    link: Link | None = field(default=None, repr=False)
    _stepping: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _over: threading.Event = field(default_factory=threading.Event, repr=False)

    @staticmethod
    def join(launch: Launch, degree: int, same: Mapping[str, str]) -> Members:
        """Meet the others. ``degree``: ranks in all, shared out evenly; ``same``: what all members must agree on, by
        name. Raises ConfigError."""
        if degree < launch.members:
            raise ConfigError(f"{launch.members} processes need at least as many ranks, not {degree}")
        say(
            f"process {launch.member} of {launch.members} waits for the others at {launch.address}, "
            f"{JOIN_SECONDS:g} s at most"
        )
        link = Link(launch)
        try:
            _shake_hands(link)
            _agree(link, {"ranks": str(degree), **same})
        except (ConfigError, ExecutorLostError) as error:
            link.close()
            raise ConfigError(str(error)) from None
        members = Members(launch.member, begins_of(degree, launch.members), link.all_gather, link)
        if launch.leads:
            threading.Thread(target=members._stay, daemon=True, name="ranks").start()
        return members

    @property
    def lost(self) -> str:
        """See RankGroup."""
        return "" if self.link is None else self.link.lost

    def least(self, number: int) -> int:
        """See RankGroup."""
        assert self.link is not None
        return min(int.from_bytes(each, "little") for each in self.link.gathered(number.to_bytes(8, "little")))

    @contextmanager
    def step(self, batch: StepInput) -> Iterator[None]:
        """The leader tells the step before it takes it."""
        assert self.link is not None
        with self._stepping:
            if self.link.launch.leads:
                self.link.tell(packed(batch))
            yield

    def _stay(self) -> None:
        """Asks now and then whether all are there, so that silence means something on either side."""
        assert self.link is not None
        while not self._over.wait(self.link.launch.timeout / 4):
            if self._stepping.acquire(blocking=False):
                try:
                    if not self._over.is_set():
                        self.link.tell(IDLE)
                        self.link.meet()
                except ExecutorLostError:
                    return  # `lost` says so
                finally:
                    self._stepping.release()

    def leave(self) -> None:
        """The leader sends everybody home."""
        assert self.link is not None
        with self._stepping:
            if self._over.is_set():
                return
            self._over.set()
            if self.link.launch.leads:
                with suppress(ExecutorLostError):
                    self.link.tell(END)
        self.link.close()


def _reason(error: Exception) -> str:
    """The first sentence of what gloo says, without the place in its sources."""
    line = str(error).partition("\n")[0]
    return re.sub(r"^\[[^]]*:\d+\] ", "", line).partition(". ")[0]


def _shake_hands(link: Link) -> None:
    """Every member proves that it knows the secret, with a challenge of everybody's making."""
    challenge = hashlib.sha256(b"".join(link.gathered(secrets.token_bytes(_DIGEST)))).digest()
    secret = link.launch.secret.encode()

    def proof(member: int) -> bytes:
        return hmac.new(secret, challenge + member.to_bytes(4, "little"), "sha256").digest()

    for member, shown in enumerate(link.gathered(proof(link.launch.member))):
        if not hmac.compare_digest(shown, proof(member)):
            raise ConfigError(f"process {member} has another {SECRET_VARIABLE}: give all of them the same")


def _agree(link: Link, facts: Mapping[str, str]) -> None:
    for name, value in facts.items():
        digest = hashlib.sha256(f"{name} {value}".encode()).digest()
        for member, other in enumerate(link.gathered(digest)):
            if other != digest:
                own = f", here {value}" if len(value) <= _SHOWN else ""
                raise ConfigError(f"process {member} differs in {name}{own}: start all with the same model and flags")

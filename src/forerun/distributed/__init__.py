"""Ranks in several processes and on several hosts, over torch.distributed (extra ``distributed``).

All processes run the same command, started by ``torchrun``. The first one is the leader: it serves and schedules as a
single process does. The others follow: they get every step's arrays, compute their part of it, and give their outputs
to all members behind each attention, and each matrix that is not cut by its heads, and the tokens that can be drawn
behind the last (``runtime/ranks.py``).
"""

from forerun.distributed.follower import follow
from forerun.distributed.launch import TIMEOUT_VARIABLE, Launch, launched
from forerun.distributed.members import Members
from forerun.distributed.signals import end_with_parent, left_to_the_leader

__all__ = ["TIMEOUT_VARIABLE", "Launch", "Members", "end_with_parent", "follow", "launched", "left_to_the_leader"]
"""The public names of the package."""

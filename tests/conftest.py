"""What all tests need."""

from __future__ import annotations

import signal

# A shell starts its background jobs with interrupts ignored, and they hand that on to the processes that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

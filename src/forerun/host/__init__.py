"""The machine below: CPUs, control groups, memory, and what the native core says about the processor."""

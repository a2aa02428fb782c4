"""The reference executor: the program in NumPy, slow and obvious, bit for bit what the native executor computes."""

from forerun.runtime.reference.executor import ReferenceExecutor

__all__ = ["ReferenceExecutor"]

"""Executors of a program: the reference in NumPy and the native one."""

"""Measurements of a loaded model: speed, kernels against the machine's limits, the benchmark report."""

"""The load test under the name of the script that the tutorials call: ``python token_benchmark_ray.py FLAGS``."""

from forerun.cli.bench_load import entry

if __name__ == "__main__":
    entry()

"""The load test under the name of the script that the tutorials call: ``python token_benchmark_ray.py FLAGS``."""

import sys

from forerun.cli.programs import token_benchmark_ray

if __name__ == "__main__":
    sys.exit(token_benchmark_ray())

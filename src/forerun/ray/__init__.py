"""Replicas on Ray Serve: ``serve run forerun.ray:build_app model=... num_replicas=2``. Needs the extra ``ray``."""

from forerun.ray.app import build_app

__all__ = ["build_app"]

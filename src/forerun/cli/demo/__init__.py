"""The parts of ``inference_demo``: flag table, parser, settings, documentation."""

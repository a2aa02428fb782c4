"""Forerun: compile a language model for this machine, then serve it with exact, reproducible tokens."""

"""Ranks in several processes, started as users start them; needs torch."""

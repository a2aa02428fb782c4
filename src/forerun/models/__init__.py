"""Decoders described once, as operators: one shared description and the small differences of each family."""

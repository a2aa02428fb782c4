"""The command line: one file per command; each parses its flags, builds a configuration and calls one function."""

"""Capacity and speed on paper: what a model takes on a machine, and how fast it can be there (docs/planning.md).

subject    the model: a checkpoint, an artifact, or a config.json alone, lowered to its program
machine    what a machine can do: descriptions that come with the package or a user's file, and this host, measured
work       what a step of the program asks of one rank
step_time  work and machine -> seconds, by what takes them
plan       memory, TTFT, TPOT and throughput of one configuration
sweep      many of them, as a table and a chart
one_rank   a rank of many, really run on this host with random weights
"""

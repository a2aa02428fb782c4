"""How close a model's answers are to a reference.

A layer between ``engine`` and ``runtime``: it drives executors step by step and may import ``runtime``, ``compiler``,
``checkpoint`` and what lies below; nothing below imports it. Only ``huggingface`` needs torch and transformers, and
imports them when a reference is made.

compare     tokens and logits of one step against the expected ones, and the reports
tolerances  allowed differences per top-k band
rollout     greedy answers with logits, from any executor
golden      references saved as .npz
huggingface references computed by transformers in float32
scoring     logits of every position of a text
divergence  perplexity, Kullback-Leibler divergence and top-1 agreement
checks      token-matching and logit-matching as a whole
record      a command that saves a reference
"""

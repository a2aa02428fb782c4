"""Drafts for speculative decoding, trained on what their target writes (``forerun train-draft``).

recipe    what decides which text is collected
openings  how the target's documents begin
collect   the target writes; shards holds what it wrote
shape     the draft's shape, and its first weights from the target
network   the draft in torch
batches   what a step learns from
train     steps, stops and resumption; state is what is saved
folder    the result as a Hugging Face folder
report    how often it is right, and what that is worth; agreement counts without an engine, chart draws
"""

"""Speculative decoding: where drafts come from, and how long they may be.

``lookup`` drafts from what a request itself has said, ``model_drafter`` with a model of its own (``draft_runs``);
``acceptance`` estimates how often such drafts are right;
``costs`` knows what a step of so many rows takes; ``length`` weighs one against the other. Acceptance of drawn tokens
stays in ``engine/accept.py``: a draft never changes a token.
"""

"""The load test: requests against any OpenAI-compatible server, and what became of them.

A client: it knows servers by their URLs and imports nothing of the engine. ``load.run`` sends the sessions of a
dataset (``datasets``, ``sonnets``) at the moments that ``arrivals`` gives, through ``client``; ``metrics`` reads the
times off, ``llmperf`` and ``report`` write them down.
"""

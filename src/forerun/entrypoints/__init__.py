"""Module paths that scripts written for vLLM start servers with."""

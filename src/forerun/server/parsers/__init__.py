"""From the text of an answer to its parts: what was said, what was thought, which tools are called."""

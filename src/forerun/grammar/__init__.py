"""The form of an answer: what is asked for, compiled to a grammar that says token by token what may come next.

params   StructuredOutputsParams, in vLLM's names
rules    from these to the rules of a grammar; finite: which schemas no answer that ends can have
library  the grammar library: compiled grammars, and the state of one answer
cache    compiled grammars by what they say
waiting  a form behind a marker, such as the end of a model's thoughts
"""

from forerun.grammar.cache import Grammars
from forerun.grammar.params import NAMES, GrammarError, StructuredOutputsParams

__all__ = ["NAMES", "GrammarError", "Grammars", "StructuredOutputsParams"]

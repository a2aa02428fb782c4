"""From "which model, with which settings" to a model that can run: the one way of all commands and of ``forerun.LLM``.

request   what a front asks for
prepare   the artifact that fits: found or compiled, compared with what was asked for
draft     the draft model of speculation, beside its target
model     loaded with the settings of this run
cache     artifacts that were not given a folder
"""

from forerun.opening.model import OpenedModel
from forerun.opening.prepare import Prepared, new_config, open_model, prepare
from forerun.opening.request import ModelRequest

__all__ = ["ModelRequest", "OpenedModel", "Prepared", "new_config", "open_model", "prepare"]

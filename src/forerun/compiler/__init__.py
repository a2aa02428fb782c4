"""From a model description to an artifact: program, passes, weights, plan."""

"""Shrinks a model to a budget: analyze, allocate, prune and refit, with training in between."""

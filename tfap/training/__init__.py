"""Mask updates during `fit`: the callbacks and what they do."""

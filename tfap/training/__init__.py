"""Mask updates during `fit`, and the callbacks that make them."""

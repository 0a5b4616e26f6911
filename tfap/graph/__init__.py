"""Analyzes models: layers, layer types, channels, constants, and FLOPs."""

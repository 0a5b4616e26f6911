"""Helpers that do not depend on pruning: argument checks, files, tables, plots, statistics."""

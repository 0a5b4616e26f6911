"""Helpers that know nothing of pruning: argument checks, files, tables, plots, statistics."""

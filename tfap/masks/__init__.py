"""Scores to masks: which weights or neurons are pruned."""

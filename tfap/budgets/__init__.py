"""Budgets of the whole model: how large, or how slow, a pruned model may be."""

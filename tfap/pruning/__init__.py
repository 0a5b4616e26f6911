"""The entry points: plan, wrap and strip."""

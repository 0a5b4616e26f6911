"""Entry points of pruning: plan which layers to prune, wrap them, and strip the wrappers."""

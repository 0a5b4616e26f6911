"""Makes pruned models smaller with the same outputs, after the training or during it."""

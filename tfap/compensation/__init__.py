"""What layers consume, summed over data, and the refit of their weights when channels are removed."""

"""Size, latency and accuracy of models side by side."""

"""Size, latency and accuracy of models, compared with a baseline."""

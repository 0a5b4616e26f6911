"""Export of models to files, and the runtimes that run them."""

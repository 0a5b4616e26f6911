"""What tfap knows of a model: its layers, their types, channels, constants and FLOPs."""

"""Exported files: written, run in their own runtimes, and compared with the model."""

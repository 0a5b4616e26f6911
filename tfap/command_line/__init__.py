"""The command `tfap`: reports, plans, exports, shrinks and compares models without a line of Python."""

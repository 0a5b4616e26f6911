"""`python -m tfap` is the command `tfap`."""

import importlib

if __name__ == "__main__":
    importlib.import_module("tfap.command_line.start").start()

"""`python -m tfap` is the command `tfap`."""

from tfap.command_line.start import start

if __name__ == "__main__":
    start()

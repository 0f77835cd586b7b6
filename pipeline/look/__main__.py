"""`python -m pipeline.look OUTPUT`."""

from pipeline import console
from pipeline.look.command import main

if __name__ == "__main__":
    console.leave(main)

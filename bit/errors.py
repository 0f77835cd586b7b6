"""What can be wrong with a requested model. Standard library only."""

from __future__ import annotations


class UnknownModel(ValueError):
    """A `--model` value that is neither a known name nor a possible location of a model."""


class UnusableModel(ValueError):
    """A model that exists but cannot serve the request."""

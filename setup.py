"""Lets `--setup_file=./setup.py` ship this package to remote workers; the metadata is in pyproject.toml."""

from setuptools import setup

setup()

"""Lets `--setup_file=./setup.py` ship this package to remote workers; the metadata stands in pyproject.toml."""

from setuptools import setup

setup()

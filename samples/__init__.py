"""Photographs that ship with the project, and commands that use them; not part of the package."""

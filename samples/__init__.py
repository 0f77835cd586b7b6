"""Photographs that ship with the project, and commands around them; not part of the package."""

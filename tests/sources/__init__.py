"""Tests of transforms/sources."""

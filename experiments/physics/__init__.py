"""Comparisons on problems of physics."""

"""Comparisons on molecules."""

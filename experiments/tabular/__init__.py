"""Comparisons on tables of numbers."""

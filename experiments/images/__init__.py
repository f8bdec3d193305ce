"""Comparisons on images."""

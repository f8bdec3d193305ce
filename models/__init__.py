"""Whole networks out of softeq layers."""

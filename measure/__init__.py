"""Measuring the equivariance of any callable."""

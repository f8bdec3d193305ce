"""Phenomena of soft inductive biases, each asked anew: what does a soft symmetry do to it, between hard and none?"""

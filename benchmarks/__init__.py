"""Timings as ratios: every claim is measured in one run, in turns with the twin that it is compared to."""

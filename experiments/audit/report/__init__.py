"""The audit's report: one CSV and one self-contained page."""

"""What a measurement returns, and the statistics over its samples."""

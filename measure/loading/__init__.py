"""Models, weights and images by name or from files."""

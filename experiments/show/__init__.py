"""Records shown: tables, figures, progress, the README."""

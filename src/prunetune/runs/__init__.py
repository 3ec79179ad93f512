"""The steps of runs and grids, and what they leave on disk."""

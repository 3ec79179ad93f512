"""Hostile inputs: overrides, list files, score files, checkpoints, archives and images."""

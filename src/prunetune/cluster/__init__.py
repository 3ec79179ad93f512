"""Pruning of data that no machine holds: reading, scoring and selecting on the workers of Ray."""

"""Plumbing that knows nothing of pruning: errors, randomness, the store, devices, progress."""

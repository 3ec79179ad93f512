"""Basic parts that do not depend on pruning: errors, randomness, the store, devices, progress."""

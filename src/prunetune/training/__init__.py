"""How a network is trained on the pruned set."""

"""How the pruned set is trained on."""

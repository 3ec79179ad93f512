"""Prune data that a user brings: understand it, choose what is kept, write files that can be used."""

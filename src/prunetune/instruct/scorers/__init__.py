"""Scorers of text: one number for each sample."""

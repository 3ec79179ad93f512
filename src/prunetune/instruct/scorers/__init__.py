"""Scorers of text, which give each sample one number."""

"""Language models, their masked copies, and passes over a corpus."""

"""Instruction data: read, rendered, encoded."""

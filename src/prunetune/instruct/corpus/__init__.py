"""Instruction data: reading corpora, rendering samples as text, and tokenizing them."""

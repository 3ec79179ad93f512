"""A user's own text: read any form of it, score it, choose what is kept, and write the original rows."""

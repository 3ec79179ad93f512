"""Read any kind of data that a user brings; nothing is read wrong in silence."""

from prunetune.own.read.dispatch import read, read_labelled
from prunetune.own.read.embeddings import read_embeddings
from prunetune.own.read.options import ReadOptions

__all__ = ["ReadOptions", "read", "read_embeddings", "read_labelled"]

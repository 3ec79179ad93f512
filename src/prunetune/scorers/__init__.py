"""Scorers: one number per image."""

from prunetune.scorers.base import Scorer
from prunetune.scorers.constant import Random
from prunetune.scorers.dlc import DLC
from prunetune.scorers.from_file import FromFile

__all__ = ["DLC", "FromFile", "Random", "Scorer"]

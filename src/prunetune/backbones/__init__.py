"""Pretrained networks without their heads."""

from prunetune.backbones.base import Backbone, Network

__all__ = ["Backbone", "Network"]

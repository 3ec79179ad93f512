"""Pretrained networks without their heads, how they are masked, and one frozen pass over images."""

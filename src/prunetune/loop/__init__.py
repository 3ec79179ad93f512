"""Scores and samplers for a training loop that the user writes: images, text or anything else with class logits."""

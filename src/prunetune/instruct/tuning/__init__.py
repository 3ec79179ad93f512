"""Fine-tuning by LoRA, and the evaluation afterwards."""

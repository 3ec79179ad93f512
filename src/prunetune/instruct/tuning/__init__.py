"""Fine-tuning by LoRA, and the questions that are asked afterwards."""

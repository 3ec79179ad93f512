"""What the code of DeepCore and of the paper does instead of the published rule."""

"""The behaviour of the code of DeepCore and of the paper where it differs from the published rule."""

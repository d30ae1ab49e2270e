"""Measuring series of checkpoints: the folder it lives in, and what one process of it does."""

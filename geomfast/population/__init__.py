"""Populations: hundreds of seeds of every scale on one task, trained stacked and measured alike."""

"""Behaviour of language models from results of the lm-evaluation-harness."""

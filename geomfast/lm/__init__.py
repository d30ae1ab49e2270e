"""Causal language models of transformers: loading, encoding, the hub, probe sets."""

"""Populations from a base: a pre-trained language model whose last parts are trained anew per seed.

After arXiv:2502.17356, which re-initialises the last attention block and the head of a language
model for every seed and trains it on a multiple-choice task.
"""

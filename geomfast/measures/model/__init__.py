"""The measures of any model: what its activations are, how it is evaluated, `gf.measure`."""

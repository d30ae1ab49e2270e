"""Checkpoints of trainings, wherever they are: one module per kind of source.

Every kind gives series of :class:`~geomfast.series.checkpoint.Checkpoint`, knows how
to bring one to this machine and let go of it again, and opens it for measuring.
"""

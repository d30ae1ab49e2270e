"""Executors of runs: processes on this machine, or workers of a Ray cluster.

Both engines take the same jobs and say the same of them; what they write is the same.
"""

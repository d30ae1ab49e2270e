"""Shared by all runs: folders, locks, records, failures, timing, and executors of work."""

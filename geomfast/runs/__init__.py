"""What runs have in common: folders, locks, parts, failures, wall time, and where work is done."""

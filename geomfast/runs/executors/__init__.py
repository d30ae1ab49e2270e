"""Where runs happen: in processes on this machine, or on a Ray cluster.

Both engines take the same jobs and say the same of them; what they write is the same.
"""

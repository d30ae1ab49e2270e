"""The testbed of the papers: tasks, models and their training."""

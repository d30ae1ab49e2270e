"""What the papers train: the tasks, the models and their training."""

"""Live measures inside a training loop: the budget, the copy of the model, folder, dashboards."""

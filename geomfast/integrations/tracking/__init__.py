"""What a tracker is made of: its budget, its copy of the model, its folder, its dashboards."""

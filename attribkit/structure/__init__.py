"""Changes of a model's structure."""

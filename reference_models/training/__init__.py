"""Training reference models."""

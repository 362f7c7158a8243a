"""The networks of the paper: architectures, recipes, training and weights."""

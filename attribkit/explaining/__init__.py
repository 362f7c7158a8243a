"""From a model and images to maps of the units that fired."""

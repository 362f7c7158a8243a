"""What is measured of a map."""

"""Other people's models and tools, one file each."""

"""A network run backwards by another rule; imports torch, and nothing of ours above it."""

"""Weights by name or file, and checkpoints in and out."""

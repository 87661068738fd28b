"""Restoration of pictures: noise and rain, methods, files, training and evaluation."""

"""Sparse-view CT: scans, networks and other methods, files, training and evaluation."""

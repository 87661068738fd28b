"""Sparse-view CT: scans, networks and other methods, files, training and evaluation."""

NOTICE = "research use only, not for diagnosis: reconstructions can lack or invent structures"
# Highest level of noise, in HU, that weights for CT slices know.
MOST_LEVEL_HU = 200.0

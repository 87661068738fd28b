"""Sparse-view CT: scans, networks and other methods, files, training and evaluation."""

NOTICE = "research use only, not for diagnosis: reconstructions can lack or invent structures"

"""Metal artifact reduction in CT: scans with metal, methods, files, training and evaluation."""

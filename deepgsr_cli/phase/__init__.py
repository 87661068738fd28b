"""Phase retrieval: diffraction, methods, files, training and evaluation."""

"""Phase retrieval: diffraction, methods, files, training and evaluation."""

# Largest side, in pixels, that a simulation's picture is resized to.
MOST_SIDE_PX = 4096

"""Raabin-WBC: cropped white blood cells of five types."""

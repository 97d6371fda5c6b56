"""KRD-WBC: white blood cells with masks of the whole cell."""

"""Blood Cell Detection dataset: frames with boxes around the cells."""

"""Numbers that the two papers print, and ours beside them.

Paper B is Cytometry Part A 2024, doi:10.1002/cyto.a.24839: classification into five types of white
blood cells and segmentation of nucleus and cytoplasm, on pooled data sets.
"""

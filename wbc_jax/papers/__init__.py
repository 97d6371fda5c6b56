"""Numbers that the two papers print, and ours beside them.

Paper A is Kirubakaran et al., "White Blood Cell Segmentation and Determination of Nucleus to
Cytoplasm Ratio by using Microscopic Images": a U-Net and tables of N/C ratios. Paper B is Özcan,
Uyar and Karayeğen, Cytometry Part A 2024;105:501–520, doi:10.1002/cyto.a.24839: classification
into five types of white blood cells and segmentation of nucleus and cytoplasm, on pooled data sets.

`cells` reads the printed numbers from the CSV files here, `ratios` and `confusions` recompute what
follows from them, `counts` sets numbers of images side by side.
"""

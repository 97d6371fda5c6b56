"""The numbers that the two papers print, with ours beside them.

Paper A is Kirubakaran et al., "White Blood Cell Segmentation and Determination of Nucleus to
Cytoplasm Ratio by using Microscopic Images": a U-Net and tables of N/C ratios. Paper B is Özcan,
Uyar and Karayeğen, Cytometry Part A 2024;105:501–520, doi:10.1002/cyto.a.24839: classification
into five types of white blood cells and segmentation of nucleus and cytoplasm, on pooled data sets.

- `printed` reads the papers' numbers from the CSV files here; `ratios` and `confusions` recompute
  the numbers that follow from them; `counts` compares numbers of images.
- `plans` lists the runs that the tables need, `runs` reads the finished ones, `scores` and
  `examples` turn them into our numbers.
- `paper_a` and `paper_b` build each table and figure (`items` has their decorator, `comparison`
  their form), `figures` draws, `render` writes text, CSV, LaTeX and HTML.
"""

"""Reports for people: text tables, charts, pictures and HTML pages.

`tables` writes text, `figures` draws charts, `overlays` draws masks on images, and `html` holds the
parts that all pages share: of a run (`run_page`), of two runs (`comparison`), of data sets
(`gallery`) and of cells (`cell_page`). matplotlib is imported only when a chart is drawn.
"""

"""What a run leaves for people: text tables, figures and one HTML page.

`tables` prints, `figures` draws, `html` puts both on a page. matplotlib is imported only when a
figure is drawn, so that this package costs nothing to a program that draws none.
"""

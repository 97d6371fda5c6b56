"""Acevedo et al. 2020: normal blood cells of eight classes, one a photograph."""

"""Helpers that know nothing of the project: files, progress, colors."""

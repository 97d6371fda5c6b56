"""Zheng et al. 2018: cells with nucleus and cytoplasm drawn by experts."""

"""Starts runs on several processes and machines."""

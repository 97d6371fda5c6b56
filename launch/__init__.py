"""Starting runs on several processes and machines."""

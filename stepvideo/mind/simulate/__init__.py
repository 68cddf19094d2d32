"""A month on thousands of GPUs in which faults come as the report counted them, and the real decision code answers."""

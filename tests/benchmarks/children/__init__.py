"""Programs for processes of their own, under any Python: they do not import this library."""

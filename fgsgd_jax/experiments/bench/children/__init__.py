"""Programs that run in processes of their own, under any Python: they import nothing of ours."""

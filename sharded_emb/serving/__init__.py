"""What is left of a run for those who serve it: files that need torch and nothing else."""

MANIFEST = "export.json"

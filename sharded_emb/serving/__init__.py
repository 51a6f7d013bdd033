"""What is left of a run for those who serve it: files that need torch and nothing else."""

MANIFEST = "export.json"
# all that an export has; anything else in its folder is somebody's own and is never deleted
OURS = frozenset({MANIFEST, "embeddings", "tables", "vocabulary", "items", "model.pt2", "serving"})

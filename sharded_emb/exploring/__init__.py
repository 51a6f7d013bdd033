"""What a run has made of its tables, for a person: which rows are read, how far they moved, who is near whom."""

MANIFEST = "explore.json"
PAGE = "explore.html"

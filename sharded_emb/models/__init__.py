"""One model, one file; ordinary torch that knows nothing of ranks."""

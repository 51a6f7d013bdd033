"""The loop and what stands around it; takes parts, not the whole RunConfig."""

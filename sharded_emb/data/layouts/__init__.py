"""What samples a log becomes: whole sequences for the next item, or single events with a label."""

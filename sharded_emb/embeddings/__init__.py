"""Tables and features to lookups, pooled vectors and sequences."""

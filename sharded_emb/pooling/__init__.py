"""From the vectors of a bag to one vector: one file a pooling."""

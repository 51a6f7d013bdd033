"""From a model's output to one scalar."""

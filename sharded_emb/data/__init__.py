"""Raw log -> dataset folder (`prepare`), and dataset folder -> batches."""

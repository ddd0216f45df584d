"""From a source to prepared Parquet, and from Parquet to batches."""

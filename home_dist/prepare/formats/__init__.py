"""Files of a log in other formats than Parquet: each is converted to Parquet before it is read."""

"""Takes finished runs out of the metadata database into Parquet files, and puts them back."""

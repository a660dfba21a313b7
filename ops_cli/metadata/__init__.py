"""The metadata database and its archives."""

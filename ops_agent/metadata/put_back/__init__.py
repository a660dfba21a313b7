"""Rows back from an archive into the database."""

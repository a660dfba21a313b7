"""Old rows out of the database into an archive."""

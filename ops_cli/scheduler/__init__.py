"""Which host's scheduler runs, and how that is changed."""

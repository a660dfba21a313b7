"""Releases of DAGs: from a repository to every host, and back."""

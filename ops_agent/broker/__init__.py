"""The broker as its own host sees it."""

"""The metadata database's server as its own host sees it."""

"""The scheduler lease as the database and a host's keeper tell it, and how it is moved."""

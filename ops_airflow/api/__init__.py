"""What is added to the api-server."""

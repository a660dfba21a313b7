"""What taking a host out of service and back needs."""

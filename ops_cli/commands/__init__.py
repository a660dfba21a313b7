"""What is typed; a file a command."""

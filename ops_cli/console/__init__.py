"""What every command says and asks the same way."""

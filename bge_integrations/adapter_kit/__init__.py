"""What every framework's adapter is built from."""

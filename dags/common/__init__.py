"""What the DAGs of this repository share."""

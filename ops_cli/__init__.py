"""The `ops` command: runs on the control node and talks to the fleet over SSH."""

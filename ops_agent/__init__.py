"""What runs on every machine, in Debian's Python: what `ops` asks of it, and what its timers do."""

"""What `ops` may ask of a machine; a file a verb."""

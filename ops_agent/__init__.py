"""What runs on the VMs: probes now, lease keeper, DAG bundle and archive engine later."""

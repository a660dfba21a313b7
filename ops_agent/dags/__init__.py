"""DAG releases on the machines: the share's store, the stream they come in, the gate they pass."""

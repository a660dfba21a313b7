"""The scheduler lease: which host's scheduler may run, decided in the metadata database.

protocol.py decides, keeper.py acts, and tests/simulation runs the same protocol.py through faults.
"""

"""The gate: every DAG file of a tree is imported in a process of its own and judged before it may become a release."""

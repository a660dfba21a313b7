"""Releases as Airflow's bundles, and a dag-processor that knows them."""

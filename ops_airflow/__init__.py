"""What runs inside Airflow's processes and the scheduler's keeper: the wheel in Airflow's environment."""

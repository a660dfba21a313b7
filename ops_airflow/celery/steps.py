"""What the fleet adds to Airflow's Celery workers. Named by Celery's `imports`, so that they alone load it."""

from airflow.providers.celery.executors.celery_executor import app

from ops_airflow.celery import drain

drain.install(app)

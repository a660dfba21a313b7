"""What is added to Celery and its workers."""

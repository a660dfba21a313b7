"""What a scheduler does to the database, over and over until its standard input closes.

`loop DSN` prints the p99 of its latency in ms, and how often it did it.
"""

import select
import sys
import time

import psycopg

_PICK = """
SELECT id FROM dag_run WHERE state = 'running' ORDER BY last_scheduling_decision NULLS FIRST, run_after
LIMIT 20 FOR UPDATE SKIP LOCKED
"""
_TASKS = """
SELECT t.id FROM task_instance AS t JOIN dag_run AS r USING (dag_id, run_id)
WHERE t.state = 'scheduled' AND r.state = 'running' LIMIT 32 FOR UPDATE OF t SKIP LOCKED
"""


def main() -> None:
    took = []
    with psycopg.connect(sys.argv[1], autocommit=True) as connection:
        while not select.select([sys.stdin], [], [], 0)[0]:
            started = time.perf_counter()
            with connection.transaction():
                runs = [found for (found,) in connection.execute(_PICK)]
                connection.execute(_TASKS).fetchall()
                connection.execute("UPDATE dag_run SET last_scheduling_decision = now() WHERE id = ANY(%s)", [runs])
            took.append(time.perf_counter() - started)
            time.sleep(0.01)
    took.sort()
    print(1000 * took[int(len(took) * 0.99)], len(took))


if __name__ == "__main__":
    main()

"""One vacuum in a process of its own, so that its memory can be told.

`one DSN [STORE]` prints its result as JSON; without a store nothing is archived.
"""

import json
import resource
import sys
from datetime import timedelta
from pathlib import Path

from ops_agent.metadata.shelf.store import Directory
from ops_agent.metadata.take import engine, pace
from ops_agent.metadata.take.plan import Request
from ops_agent.metadata.take.policy import Policy


def main() -> None:
    pace.step_back()
    request = Request(Policy(timedelta(days=90)), "the benchmark")
    store = Directory(Path(sys.argv[2])) if sys.argv[2:] else None
    vacuum = engine.Vacuum(sys.argv[1], store, request, lambda _: None)
    result = vacuum.run()
    lengths = sorted(vacuum.result.transactions)
    result["p99_transaction_s"] = lengths[int(len(lengths) * 0.99)]
    result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()

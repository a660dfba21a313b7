"""One vacuum in a process of its own, so that its memory can be told: `one DSN STORE` prints its result as JSON."""

import json
import resource
import sys
from datetime import timedelta
from pathlib import Path

from ops_agent.archive import engine
from ops_agent.archive.policy import Policy
from ops_agent.archive.store import Directory


def main() -> None:
    request = engine.Request(Policy(timedelta(days=90)), "the benchmark")
    vacuum = engine.Vacuum(sys.argv[1], Directory(Path(sys.argv[2])), request, lambda _: None)
    result = vacuum.run()
    lengths = sorted(vacuum.transactions)
    result["p99_transaction_s"] = lengths[int(len(lengths) * 0.99)]
    result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()

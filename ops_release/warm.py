"""Brings a release to this host: what `ops-agent release warm` does, and a dag-processor in a process of its own.

Called as: python -m ops_release.warm SHARE CACHE SIGNERS ID. An error is one line on standard error and exit code 1,
4 if the release was removed from the share for good.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from ops_release import GONE, GoneError, ReleaseError
from ops_release.cache import Cache
from ops_release.share import ANSWER_SECONDS, current_within, linked, published, refuse_silence

UNUSED_DAYS = 7.0


def warm(share: Path, cache: Cache, wanted: str | None = None, unused_days: float = UNUSED_DAYS) -> dict[str, Any]:
    """Have a verified copy of a release, the current one if none is named, and remove copies unused for so long.

    Returns {"release", "copied": bool, "cleaned": [ids]}; raises ReleaseError if there is no such release, GoneError if
    it was removed. A copy that is here is read again, because tasks can write it, and made anew if it is damaged.
    """
    release_id = wanted or current_within(share, ANSWER_SECONDS)
    damaged = cache.has(release_id) and bool(cache.verify(release_id))
    if damaged or not cache.has(release_id):
        refuse_silence(share)
        published(share, release_id)
    copied = cache.copy(share, release_id, anew=damaged)
    # A task that is about to start may be the first to use it.
    if use := cache.use(release_id):
        use.close()
    keep = {release_id, _current(share), linked(share, "previous") if copied else None} - {None}
    cleaned = cache.clean([one for one in keep if one], unused_days * 86400) if copied else []
    return {"release": release_id, "copied": copied, "cleaned": cleaned}


def _current(share: Path) -> str | None:
    with suppress(ReleaseError):
        return current_within(share, ANSWER_SECONDS)
    return None


def main() -> int:
    """Be what a dag-processor starts."""
    os.umask(0o022)
    share, cache, signers, release_id = sys.argv[1:]
    try:
        warm(Path(share), Cache(Path(cache), Path(signers)), release_id)
    except (ReleaseError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return GONE if isinstance(error, GoneError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

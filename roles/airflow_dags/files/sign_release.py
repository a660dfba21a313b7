"""Signs the manifest that the publisher host has made of an archive, if it is of that archive and of nothing else.

usage: sign_release.py KEY ARCHIVE SOURCE_DIGEST < RELEASE_AND_TEXT_AS_JSON; prints the signature's base64.
"""

import json
import sys
from pathlib import Path

from ops_cli.console.errors import OpsError
from ops_cli.dags import signing, source


def main(key: str, archive: str, digest: str) -> str:
    """Return the signature. Raises OpsError if there is no key, or the manifest is of something else."""
    published = json.load(sys.stdin)
    sent = {name.removeprefix("./"): one for name, one in source.contents(Path(archive)).items()}
    what = {"id": published["release"], "source": {"kind": "bootstrap", "digest": digest}, "validation": None}
    signing.refuse_other(published["text"], sent, what)
    return signing.signer(key).sign(published["text"])


if __name__ == "__main__":
    try:
        sys.stdout.write(main(*sys.argv[1:]))
    except OpsError as error:
        sys.exit(str(error))

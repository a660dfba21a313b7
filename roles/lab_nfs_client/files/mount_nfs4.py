#!/usr/bin/python3
"""mount.nfs4 for machines whose kernel has no NFS client: `mount -t nfs4 HOST:/EXPORT DIRECTORY` through FUSE.

Called by mount(8); see its "external helpers". Returns once the file system is there and leaves a daemon behind that
ends with the mount. Takes the options of nfs(5) that it has a meaning for and refuses all others.
"""

import argparse
import logging
import logging.handlers
import sys
import time
from pathlib import Path

import fusepy
from session import Options, Session
from share import Share

EXIT_USAGE, EXIT_FAILED = 1, 32
RETRY_SECONDS = 2
# Options of nfs(5) that hold here anyway, and those that mount(8) keeps for itself.
HELD_ANYWAY = {"rw", "hard", "soft", "softerr", "sec=sys", "proto=tcp", "lookupcache=positive", "_netdev", "nofail"}
KERNEL_FLAGS = {"ro", "nosuid", "nodev", "noexec", "noatime"}
VALUES = {"timeo": 100, "retrans": 2, "retry": 2, "actimeo": 3}

log = logging.getLogger("mount.nfs4")


def parse_options(text: str) -> tuple[set[str], dict[str, int]]:
    """Split mount options into flags and numbers; raises ValueError with the first that is not known."""
    flags: set[str] = set()
    values = dict(VALUES)
    for option in filter(None, text.split(",")):
        name, _, value = option.partition("=")
        if name in VALUES and value.isdigit():
            values[name] = int(value)
        elif name in {"vers", "nfsvers"} and value.split(".")[0] == "4":
            continue
        elif option in HELD_ANYWAY | KERNEL_FLAGS:
            flags.add(option)
        else:
            message = f"an incorrect mount option was specified: {option}"
            raise ValueError(message)
    return flags, values


def wait_for_export(session: Session, minutes: int) -> None:
    """Try the server for so many minutes, as mount.nfs does with `retry`; raises OSError after that."""
    deadline = time.monotonic() + minutes * 60
    while True:
        try:
            session.connect()
        except OSError as error:
            if time.monotonic() > deadline:
                raise
            log.debug("%s", error)
            time.sleep(RETRY_SECONDS)
        else:
            # The daemon makes a connection of its own: one must not be shared over a fork.
            session.disconnect()
            return


def run(source: str, directory: str, option_text: str) -> None:
    """Mount and, in the process that stays behind, serve until unmounted."""
    flags, values = parse_options(option_text)
    server, _, export = source.partition(":")
    timeout_seconds = max(1, values["timeo"] // 10)
    soft = bool(flags & {"soft", "softerr"})
    options = Options(timeout_seconds, timeout_seconds * (values["retrans"] + 1) if soft else None)
    session = Session(server, export, options)
    wait_for_export(session, values["retry"])
    journal = logging.handlers.SysLogHandler("/dev/log")
    journal.ident = "mount.nfs4: "
    logging.getLogger().handlers = [journal]
    fusepy.FUSE(
        Share(session),
        directory,
        fsname=source,
        subtype="nfs4",
        allow_other=True,
        default_permissions=True,
        use_ino=True,
        big_writes=True,
        attr_timeout=values["actimeo"],
        entry_timeout=values["actimeo"],
        negative_timeout=0,
        **dict.fromkeys(flags & KERNEL_FLAGS, True),
    )


def main() -> int:
    """Parse what mount(8) passes and mount."""
    logging.basicConfig(level=logging.INFO, format="mount.nfs4[%(process)d]: %(message)s")
    parser = argparse.ArgumentParser(prog="mount.nfs4")
    parser.add_argument("source")
    parser.add_argument("directory", type=Path)
    parser.add_argument("-o", dest="options", default="")
    for flag in "nsv":
        parser.add_argument(f"-{flag}", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_intermixed_args()
    try:
        run(arguments.source, str(arguments.directory), arguments.options)
    except ValueError as error:
        log.error("%s", error)  # noqa: TRY400 - mount(8) shows one line, not a traceback
        return EXIT_USAGE
    except (OSError, RuntimeError) as error:
        log.error("%s: %s", arguments.source, error)  # noqa: TRY400 - likewise
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Gives up root: `ops` calls as root, and a share's server trusts nobody's root."""

import os
import pwd


def become(name: str) -> None:
    """Be another user, with its groups and environment; does nothing for a process that is not root.

    Raises OSError if this host has no such user.
    """
    if os.geteuid():
        return
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise OSError(f"this host has no user {name}; site.yml makes it") from None
    os.initgroups(name, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.environ |= {"HOME": entry.pw_dir, "USER": name, "LOGNAME": name}

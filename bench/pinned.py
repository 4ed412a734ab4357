"""Becomes another program on one core: `python pinned.py CORE[,CORE…] USER|- PROGRAM ARGUMENT…`.

The process id stays, all threads that the program starts are on these cores, it may open as many files as it is
allowed to, and it ends when the bench ends, however that ends. processes.py starts everything through this.
"""

import ctypes
import os
import pwd
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Replaces this process by the program."""
    cores, user, *command = sys.argv[1:]
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    if user != "-":
        account = pwd.getpwnam(user)
        os.initgroups(user, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.execvp(command[0], command)  # noqa: S606  (becoming another program is its purpose; no shell wanted)


if __name__ == "__main__":
    main()

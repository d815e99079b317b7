"""Answers the questions of `pagesync init` on a terminal, and prints what the terminal showed.

The first argument is the executable; the answers follow. An answer that starts with "hidden:" is
entered only when the terminal no longer shows what is entered.
"""

import os
import pty
import sys
import termios
import time

ECHO_FLAGS = 3


def main():
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.argv[1], [sys.argv[1], "init"])
    shown = b""
    for answer in sys.argv[2:]:
        while not shown.endswith(b": "):
            part = read(terminal)
            if not part:
                sys.exit(f"the command ended before every question was answered: {shown!r}")
            shown += part
        if answer.startswith("hidden:"):
            answer = answer.removeprefix("hidden:")
            deadline = time.monotonic() + 30
            while termios.tcgetattr(terminal)[ECHO_FLAGS] & termios.ECHO:
                if time.monotonic() > deadline:
                    sys.exit("the terminal still shows what is entered")
                os.sched_yield()
        os.write(terminal, answer.encode() + b"\n")
        shown += read(terminal)
    while part := read(terminal):
        shown += part
    sys.stdout.write(shown.decode())
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


def read(terminal):
    """Returns what the terminal shows next, or nothing when the command has ended."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


main()

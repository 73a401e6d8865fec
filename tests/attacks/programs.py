"""Programs that must not get anywhere, for the tests of the sandbox and of what is scored with it.

Each prints ``escaped`` where it gets what it wants, so that a test has one thing to look for.
"""

TRY = """
def attempt(what):
    try:
        found = what()
    except OSError:
        return
    print("escaped", found)
"""

ATTACKS = {
    "fork bomb": """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
    "endless loop": "while True: pass",
    "endless loop that ignores signals": """
import signal
for number in (signal.SIGXCPU, signal.SIGTERM, signal.SIGALRM, signal.SIGPROF, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
while True:
    pass
""",
    "sleep": "import time; time.sleep(10000)",
    "sleep without pipes": "import os, time; os.closerange(0, 64); time.sleep(10000)",
    "huge output": "while True: print('x' * 100000)",
    "huge errors": "import sys\nwhile True: print('x' * 100000, file=sys.stderr)",
    "memory hog": "held = []\nwhile True: held.append(bytearray(1 << 24))",
    "memory in files": """
import os
for number in range(10000):
    with open(f"/tmp/{number}", "wb") as file:
        file.write(bytes(1 << 20))
""",
    "memory in shared memory": """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
if libc.shmget(0, 1 << 20, 0o1600) >= 0:
    print("escaped")
os.memfd_create("held")
print("escaped")
""",
    "huge file": """
with open("/tmp/file", "wb") as file:
    while True:
        file.write(bytes(1 << 20))
""",
    "deep recursion": "import sys\nsys.setrecursionlimit(1 << 30)\nf = lambda *_: sorted([1], key=f)\nf()",
    "grandchildren": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(10000)
    os._exit(0)
os.wait()
while True:
    pass
""",
    "kill everything": """
import os, signal
for pid in (os.getppid(), 1, -1):
    for number in (signal.SIGKILL, signal.SIGSTOP):
        try:
            os.kill(pid, number)
        except OSError:
            pass
raise SystemExit(1)
""",
    "privileges": TRY
    + """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
attempt(lambda: os.chroot("/tmp"))
attempt(lambda: os.setuid(1000))
attempt(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
attempt(lambda: os.nice(-5))
# unshare, and clone (x86_64's number 56, harmless elsewhere) with a user namespace; then mount and umount.
for call in (lambda: libc.unshare(0x10000000), lambda: libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0),
             lambda: libc.mount(b"t", b"/tmp", b"tmpfs", 0, None), lambda: libc.umount2(b"/tmp", 2),
             lambda: libc.mount(None, b"/usr", None, 32, None)):
    if call() >= 0:
        print("escaped")
raise SystemExit(1)
""",
}
"""Each is harmless where it is contained, and ends in another status than ``ok``."""

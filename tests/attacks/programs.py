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

_BUSY = """
import os, resource, signal, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""
CLOCKS = {
    "limit raised": _BUSY
    + """
soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
burn(1.6)
""",
    "signals of clocks ignored": _BUSY
    + """
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
burn(1.6)
""",
    "timers switched off": _BUSY
    + """
import ctypes
for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
    signal.setitimer(timer, 0)
signal.alarm(0)
signal.signal(signal.SIGXCPU, lambda *_: None)
libc = ctypes.CDLL(None)
for timer in range(8):
    libc.timer_delete(timer)
for option in (1, 4, 36, 41):  # parent's death, dumpable, subreaper, slack of timers
    libc.prctl(option, 0, 0, 0, 0)
burn(1.6)
""",
    "time of children": _BUSY
    + """
for _ in range(4):
    if os.fork() == 0:
        burn(0.5)
        os._exit(0)
    os.wait()
""",
    "time of orphans": _BUSY
    + """
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            burn(0.5)
        os._exit(0)
    os.wait()
time.sleep(10000)
""",
    "time of children that are not waited for": _BUSY
    + """
try:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
except OSError:
    pass
while True:
    try:
        if os.fork() == 0:
            burn(0.03)
            os._exit(0)
    except OSError:
        time.sleep(0.01)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except OSError:
            pass
""",
    "time of threads": _BUSY
    + """
import threading
threads = [threading.Thread(target=burn, args=(1.6,)) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
""",
    "stopped": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP); os._exit(1)",
    "new program": "import os, sys; os.execv(sys.executable, [sys.executable, '-c', 'while True: pass'])",
}
"""Each uses more than a second of processor time, or never ends, and then exits as if all were well."""

_HOLD = """
import mmap, os, time
def hold(mebibytes):
    held = bytearray(mebibytes << 20)
    held[::4096] = b"x" * len(held[::4096])
    time.sleep(10000)
"""
MEMORY = {
    "memory of children": _HOLD
    + """
for _ in range(2):
    if os.fork() == 0:
        hold(150)
hold(150)
""",
    "memory of orphans": _HOLD
    + """
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        hold(150)
    os.wait()
time.sleep(10000)
""",
    "memory hidden by no dump": _HOLD
    + """
import ctypes
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
for _ in range(2):
    if os.fork() == 0:
        hold(150)
hold(150)
""",
}
"""Each holds more than 256 MiB in several processes, none of which holds as much."""

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
    "fake errors": """
import os, sys
os.write(1, b"contained\\nok\\n" * 100)
os.write(2, b"MemoryError\\nunshare(0) Operation not permitted")
os._exit(3)
""",
    "every exit code": """
import os
codes = [os.fork() for _ in range(2)]
os._exit(0 if not all(codes) else 3)
""",
    "a pair of sockets": TRY
    + """
import os, socket
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
    attempt(lambda: socket.socketpair(socket.AF_UNIX, kind))
raise SystemExit(1)
""",
}
ATTACKS |= CLOCKS | MEMORY
"""Each is harmless where it is contained, and ends in another status than ``ok``."""

"""The inner half of ``safe_r1.sandbox.container``: puts itself into a container and runs the program there.

Run as a script by ``container`` in a fresh interpreter (``-I -S``), never imported; it needs the standard
library alone. Three processes: this one (A) stays outside the new process namespace and waits; its child (B)
is that namespace's init, whose end ends every process in it; B's child (P) gives up every privilege and
becomes the program. A step that the kernel refuses ends all three with ``SETUP_FAILED`` and one line on
stderr, before anything of the program has run.

Source: namespaces(7), user_namespaces(7), pivot_root(2), mount_setattr(2), seccomp(2), capabilities(7).
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from typing import TYPE_CHECKING, Literal, NoReturn

if TYPE_CHECKING:
    from safe_r1.sandbox.plan import Plan

EXIT_CODES: dict[int, Literal["ok", "failed", "timeout"]] = {0: "ok", 1: "failed", 2: "timeout"}
SETUP_FAILED = 3
UNPRIVILEGED_ID = 65534

# Constants of the kernel's headers, which Python 3.11 does not have.
_CLONE_NEWNS = 0x00020000
_CLONE_NEWUTS = 0x04000000
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWPID = 0x20000000
_CLONE_NEWNET = 0x40000000
_NEW_NAMESPACES = (
    _CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWUSER | _CLONE_NEWPID | _CLONE_NEWNET
)
_MS_NOSUID = 2
_MS_NODEV = 4
_MS_BIND = 4096
_MS_REC = 16384
_MS_PRIVATE = 1 << 18
_MNT_DETACH = 2
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_ATTR_READ_ONLY = 1
_ATTR_NOSUID = 2
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
# The C library may have no wrapper for it; the number is the same on every machine.
_MOUNT_SETATTR = 442

# Where the new root is mounted: every Linux has this folder, no interpreter is in it, and it is not needed
# once the ids are mapped.
_MEDIUM = "/proc"

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """Contain this process by the plan on the command line and run the program; gives the exit code."""
    plan: Plan = json.loads(sys.argv[1])
    # Ignored in the caller, it would be here too, and no child could be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        _enter_namespaces()
        _build_root(plan)
        _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
        # The caller may have died before its death was signalled here.
        if os.getppid() != plan["parent"]:
            return SETUP_FAILED
        # B notices by the closed pipe that A died before B asked for a signal at its death.
        lifeline, held = os.pipe()
        init = os.fork()
    except OSError as error:
        return _refuse(error)
    if init == 0:
        os.close(held)
        _init(plan, lifeline)
    # At SIGTERM, A ends B and stays to reap it: B would otherwise be a zombie where no process reaps orphans.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(init, signal.SIGKILL))
    status = os.waitpid(init, 0)[1]
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1


def _enter_namespaces() -> None:
    uid = os.geteuid()
    gid = os.getegid()
    pid = os.getpid()
    # Where memory runs out nevertheless, the kernel is to kill the program and not the evaluation.
    _write("/proc/self/oom_score_adj", "1000")
    ready, release = os.pipe()
    helper = 0
    if uid == 0:
        # Process limits do not apply to the machine's root, so a second id is mapped for the program. Only a
        # process outside the new namespace may do so.
        helper = os.fork()
        if helper == 0:
            os.close(release)
            os._exit(_map_two_ids(pid) if os.read(ready, 1) else 1)
    _call("unshare", _NEW_NAMESPACES)
    os.write(release, b"1")
    if not helper or os.waitpid(helper, 0)[1] != 0:
        # The kernel lets an ordinary user map its group only after this: leaving a group could grant access.
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {uid} 1")
        _write("/proc/self/gid_map", f"0 {gid} 1")
    os.close(ready)
    os.close(release)
    # Otherwise later mounts of the machine would appear here, and pivot_root refuses a shared mount.
    _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)


def _map_two_ids(pid: int) -> int:
    try:
        for kind in ("uid", "gid"):
            _write(f"/proc/{pid}/{kind}_map", f"0 0 1\n{UNPRIVILEGED_ID} {UNPRIVILEGED_ID} 1\n")
    except OSError:
        return 1
    return 0


def _build_root(plan: "Plan") -> None:
    """Replace the root by one with only what the plan names, read-only, and an empty ``/tmp``."""
    os.umask(0o022)
    root = _MEDIUM + "/root"
    _tmpfs(_MEDIUM, "mode=0755,size=64m,nr_inodes=4096")
    os.makedirs(root + "/tmp")
    os.mkdir(_MEDIUM + "/old")
    _tmpfs(root + "/tmp", f"mode=0777,size={plan['file_mib']}m,nr_inodes=4096")
    for source, target in plan["binds"]:
        _bind(source, root + target)
    for folder in plan["hidden"]:
        if os.path.isdir(root + folder):
            _tmpfs(root + folder, "mode=0755,size=4k")
    with open(root + plan["program"], "wb") as file, open(plan["source_fd"], "rb") as source:
        file.write(source.read())
    # After all writes, and recursive: a bind mount alone does not inherit read-only from the mount above it.
    _set_attributes(_MEDIUM, _AT_RECURSIVE, add=_ATTR_READ_ONLY | _ATTR_NOSUID)
    _set_attributes(root + "/tmp", 0, clear=_ATTR_READ_ONLY)
    _call("syscall", plan["pivot_root"], _MEDIUM.encode(), (_MEDIUM + "/old").encode())
    os.chdir("/")
    _call("umount2", b"/old", _MNT_DETACH)
    # In a changed root the kernel creates no further user namespace, so the program gets no mounts and no
    # capabilities.
    os.chroot("/root")
    os.chdir("/tmp")


def _bind(source: str, target: str) -> None:
    # As a link: on most systems /lib is one into /usr, and mounting on it would mount on its target.
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
        return
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif os.path.exists(source):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _write(target, "")
    else:
        return
    _call("mount", os.fsencode(source), os.fsencode(target), None, _MS_BIND | _MS_REC, None)


def _init(plan: "Plan", lifeline: int) -> NoReturn:
    """B: start the program, reap its children, and end with an exit code that it cannot choose freely."""
    try:
        _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
        # The program has the same id as an ordinary user's B: so it can neither trace nor read B.
        _call("prctl", _PR_SET_DUMPABLE, 0)
        os.set_blocking(lifeline, False)
        try:
            os.read(lifeline, 1)
            os._exit(SETUP_FAILED)  # the end of the pipe: A has died already
        except BlockingIOError:
            pass
        complaint, complain = os.pipe()
        program = os.fork()
        if program == 0:
            _become_program(plan, complain)
        os.close(complain)
        message = os.read(complaint, 4096)
        pid, status = os.wait()
        while pid != program:
            pid, status = os.wait()
        _end_all()
    except OSError as error:
        os._exit(_refuse(error))
    if message:
        os.write(2, message)
        os._exit(SETUP_FAILED)
    # The time of all that it started: a program that catches the signal of its CPU limit may exit by itself.
    # The signal too, for which the kernel counts whole ticks.
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    is_timeout = usage.ru_utime + usage.ru_stime >= plan["cpu_s"] or (
        os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU
    )
    os._exit(2 if is_timeout else int(status != 0))


def _end_all() -> None:
    """End and reap every other process of the namespace, so that their time counts."""
    while True:
        try:
            os.kill(-1, signal.SIGKILL)
            os.wait()
        except (ProcessLookupError, ChildProcessError):
            return


def _become_program(plan: "Plan", complain: int) -> NoReturn:
    """P: set limits, drop privileges, install the filter, then run the program; errors go to ``complain``."""
    try:
        # Without a second id A and B count as well: they have the program's.
        has_second_id = _has_second_id()
        processes = plan["num_processes"] + (0 if has_second_id else 2)
        memory = plan["memory_mib"] << 20
        for name, value in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NOFILE, 64),
            (resource.RLIMIT_FSIZE, plan["file_mib"] << 20),
            (resource.RLIMIT_STACK, min(64 << 20, memory // 4)),
            (resource.RLIMIT_NPROC, processes),
            (resource.RLIMIT_MEMLOCK, 0),
            (resource.RLIMIT_MSGQUEUE, 0),
            (resource.RLIMIT_AS, memory),
        ):
            resource.setrlimit(name, (value, value))
        # A second wall behind the clock outside: the hard limit, a second later, kills a program that catches
        # the signal of the soft one.
        resource.setrlimit(resource.RLIMIT_CPU, (plan["cpu_s"], plan["cpu_s"] + 1))
        for capability in range(64):
            # Not checked: it fails for numbers that this kernel does not have.
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        if has_second_id:
            os.setgroups([])
            os.setresgid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
            os.setresuid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
        _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _refuse_calls(plan)
        os.execve(plan["argv"][0], plan["argv"], plan["environment"])
    except (OSError, ValueError) as error:
        os.write(complain, _line(error))
    os._exit(1)


def _has_second_id() -> bool:
    try:
        os.setresgid(-1, UNPRIVILEGED_ID, -1)
        os.setresgid(-1, 0, -1)
    except OSError:
        return False
    return True


def _refuse_calls(plan: "Plan") -> None:
    steps = plan["call_filter"]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    _call("prctl", _PR_SET_SECCOMP, 2, program, 0, 0)


def _tmpfs(path: str, options: str) -> None:
    _call("mount", b"tmpfs", os.fsencode(path), b"tmpfs", _MS_NOSUID | _MS_NODEV, options.encode())


def _set_attributes(path: str, flags: int, add: int = 0, clear: int = 0) -> None:
    attributes = ctypes.create_string_buffer(struct.pack("QQQQ", add, clear, 0, 0), 32)
    _call("syscall", _MOUNT_SETATTR, _AT_FDCWD, os.fsencode(path), flags, attributes, ctypes.c_size_t(32))


def _call(name: str, *arguments: object) -> None:
    """Call a function of the C library; raises an ``OSError`` where it fails."""
    # ctypes passes an int as a C int, while variadic functions such as `syscall` read longs.
    longs = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    if getattr(_libc, name)(*longs) < 0:
        number = ctypes.get_errno()
        shown = tuple(argument for argument in arguments if isinstance(argument, int | bytes))
        raise OSError(number, f"{name}{shown} {os.strerror(number)}")


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError as error:
        raise OSError(error.errno, f"{path}: {os.strerror(error.errno or 0)}") from error


def _line(error: BaseException) -> bytes:
    return (" ".join(str(error).split()) or type(error).__name__).encode(errors="replace")[:1000]


def _refuse(error: BaseException) -> int:
    os.write(2, _line(error))
    return SETUP_FAILED


if __name__ == "__main__":
    # Without the interpreter's clean-up, which takes time and has nothing to flush.
    os._exit(main())

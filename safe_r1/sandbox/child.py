"""The inner half of ``safe_r1.sandbox.container``: builds the container around itself, then runs the program
in it.

Run as a script by ``sandbox`` in a fresh interpreter (``-I -S``), never imported; it needs the standard
library alone. Three processes: this one (A) stays outside the new process namespace and waits; its child (B)
is that namespace's init, so that its end ends everything in it; B's child (P) gives up every privilege and
becomes the program. A step that the kernel refuses ends the whole with ``SETUP_FAILED`` and one line on
stderr, before anything of the program has run.

Source: namespaces(7), user_namespaces(7), pivot_root(2), mount_setattr(2), seccomp(2), capabilities(7).
"""

import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
from typing import Any, Literal, NoReturn

EXIT_CODES: dict[int, Literal["ok", "failed", "timeout"]] = {0: "ok", 1: "failed", 2: "timeout"}
SETUP_FAILED = 3
UNPRIVILEGED_ID = 65534

_NEW_NAMESPACES = (
    0x00020000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000
)  # NS USER PID NET IPC UTS
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_MNT_DETACH, _AT_FDCWD, _AT_RECURSIVE = 2, -100, 0x8000
_ATTR_READ_ONLY, _ATTR_NOSUID = 1, 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = (
    1,
    4,
    22,
    24,
    38,
)
_MOUNT_SETATTR = 442  # the same on every machine

# Refused system calls reach what no namespace covers (vsock, key rings), memory that no resource limit counts
# (shared memory, memfd) or rarely used parts of the kernel: socket, shmget, msgget, semget, ptrace, add_key,
# request_key, keyctl, unshare, perf_event_open, memfd_create, bpf, userfaultfd, memfd_secret, io_uring_setup.
_REFUSED_EVERYWHERE = (447, 425)
MACHINES = {
    # machine: (audit architecture, pivot_root, refused calls)
    "x86_64": (0xC000003E, 155, (41, 29, 68, 64, 101, 248, 249, 250, 272, 298, 319, 321, 323)),
    "aarch64": (0xC00000B7, 41, (198, 194, 186, 190, 117, 217, 218, 219, 97, 241, 279, 280, 282)),
}
_MEDIUM = (
    "/proc"  # every Linux has it, no interpreter lies in it, and it is not needed once the ids are mapped
)

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """Contain this process as the plan on the command line says and run the program; the exit code is the
    outcome.
    """
    plan = json.loads(sys.argv[1])
    try:
        _enter_namespaces()
        _build_root(plan)
        _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != plan["parent"]:
            return SETUP_FAILED
        lifeline, held = os.pipe()
        init = os.fork()
    except OSError as error:
        return _refuse(error)
    if init == 0:
        os.close(held)
        _init(plan, lifeline)
    # Asked to end, A ends B and stays to reap it: B would otherwise be a zombie where nobody reaps orphans.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(init, signal.SIGKILL))
    status = os.waitpid(init, 0)[1]
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1


def _enter_namespaces() -> None:
    uid, gid, pid = os.geteuid(), os.getegid(), os.getpid()
    _write(
        "/proc/self/oom_score_adj", "1000"
    )  # where memory runs out after all, the program goes and not the runner
    ready, release = os.pipe()
    helper = 0
    if uid == 0:
        # Process limits do not bind the machine's root: a second id is mapped for the program. Only a process
        # outside of the new namespace may do so.
        helper = os.fork()
        if helper == 0:
            os.close(release)
            os._exit(_map_two_ids(pid) if os.read(ready, 1) else 1)
    _call("unshare", _NEW_NAMESPACES)
    os.write(release, b"1")
    if not helper or os.waitpid(helper, 0)[1] != 0:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {uid} 1")
        _write("/proc/self/gid_map", f"0 {gid} 1")
    os.close(ready)
    os.close(release)
    _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)


def _map_two_ids(pid: int) -> int:
    try:
        for kind in ("uid", "gid"):
            _write(f"/proc/{pid}/{kind}_map", f"0 0 1\n{UNPRIVILEGED_ID} {UNPRIVILEGED_ID} 1\n")
    except OSError:
        return 1
    return 0


def _build_root(plan: dict[str, Any]) -> None:
    """A new root that holds only what the plan names, read-only, and an empty ``/tmp``; the old one is gone
    after.
    """
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
    _set_attributes(_MEDIUM, _AT_RECURSIVE, add=_ATTR_READ_ONLY | _ATTR_NOSUID)
    _set_attributes(root + "/tmp", 0, clear=_ATTR_READ_ONLY)
    _call("syscall", MACHINES[platform.machine()][1], _MEDIUM.encode(), (_MEDIUM + "/old").encode())
    os.chdir("/")
    _call("umount2", b"/old", _MNT_DETACH)
    # In a changed root the kernel grants no further user namespace, and so no mounts and no capabilities.
    os.chroot("/root")
    os.chdir("/tmp")


def _bind(source: str, target: str) -> None:
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


def _init(plan: dict[str, Any], lifeline: int) -> NoReturn:
    """B: start the program, reap whatever it leaves, and end with an exit code that the program cannot choose
    freely.
    """
    try:
        _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
        _call("prctl", _PR_SET_DUMPABLE, 0)
        os.set_blocking(lifeline, False)
        try:
            os.read(lifeline, 1)
            os._exit(SETUP_FAILED)  # A has died before its death could be noticed
        except BlockingIOError:
            pass
        complaint, complain = os.pipe()
        program = os.fork()
        if program == 0:
            _become_program(plan, complain)
        os.close(complain)
        message = os.read(complaint, 4096)
        pid, status, usage = os.wait4(-1, 0)
        while pid != program:
            pid, status, usage = os.wait4(-1, 0)
    except OSError as error:
        os._exit(_refuse(error))
    if message:
        os.write(2, message)
        os._exit(SETUP_FAILED)
    clock = (signal.SIGXCPU, signal.SIGPROF, signal.SIGALRM)
    is_timeout = (os.WIFSIGNALED(status) and os.WTERMSIG(status) in clock) or (
        status != 0 and usage.ru_utime + usage.ru_stime >= plan["cpu_s"]
    )
    os._exit(2 if is_timeout else int(status != 0))


def _become_program(plan: dict[str, Any], complain: int) -> NoReturn:
    """P: limits, then no privileges, then the filter, then the program; a failure is told through
    ``complain``.
    """
    try:
        # As an ordinary user, A and B count as well: they have the program's id.
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
        resource.setrlimit(resource.RLIMIT_CPU, (plan["cpu_s"], plan["cpu_s"] + 1))
        for capability in range(64):
            _libc.prctl(
                _PR_CAPBSET_DROP, capability, 0, 0, 0
            )  # refused for numbers that this kernel does not have
        if has_second_id:
            os.setgroups([])
            os.setresgid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
            os.setresuid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
        _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _refuse_calls()
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


def _refuse_calls() -> None:
    architecture, _, refused = MACHINES[platform.machine()]
    numbers = (*refused, *_REFUSED_EVERYWHERE)
    load, jump_equal, jump_from, answer = 0x20, 0x15, 0x35, 0x06
    kill, allow, refuse = 0x80000000, 0x7FFF0000, 0x00050001  # refuse: the call fails with EPERM
    steps = [
        (load, 0, 0, 4),
        (jump_equal, 1, 0, architecture),
        (answer, 0, 0, kill),
        (load, 0, 0, 0),
        (jump_from, len(numbers) + 1, 0, 0x40000000),  # the x32 twins of the calls
        *((jump_equal, len(numbers) - place, 0, number) for place, number in enumerate(numbers)),
        (answer, 0, 0, allow),
        (answer, 0, 0, refuse),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    _call("prctl", _PR_SET_SECCOMP, 2, program, 0, 0)


def _tmpfs(place: str, options: str) -> None:
    _call("mount", b"tmpfs", os.fsencode(place), b"tmpfs", _MS_NOSUID | _MS_NODEV, options.encode())


def _set_attributes(place: str, flags: int, add: int = 0, clear: int = 0) -> None:
    attributes = ctypes.create_string_buffer(struct.pack("QQQQ", add, clear, 0, 0), 32)
    _call("syscall", _MOUNT_SETATTR, _AT_FDCWD, os.fsencode(place), flags, attributes, ctypes.c_size_t(32))


def _call(name: str, *arguments: Any) -> None:
    """Call the C library; integers go as longs, since ``syscall`` and ``prctl`` read them so."""
    longs = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    if getattr(_libc, name)(*longs) < 0:
        number = ctypes.get_errno()
        raise OSError(
            number, f"{name}{tuple(a for a in arguments if isinstance(a, int | bytes))} {os.strerror(number)}"
        )


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
    # No clean-up of the interpreter: there is nothing left to flush.
    os._exit(main())

"""What the inner half of a container is told: its files and limits, and the system calls that are refused.

Kept apart from ``child``, which runs without this package and only carries the plan out.

Source: seccomp(2) and the system call tables of Linux.
"""

from typing import NamedTuple, TypedDict

Instruction = tuple[int, int, int, int]
"""One instruction of classic BPF: code, jump if true, jump if false, operand."""


class Plan(TypedDict):
    """What the inner half needs to know, as JSON on its command line.

    Attributes:
        argv: Command of the program, in the new root.
        binds: Source and target of everything that the program may read.
        call_filter: Program of the filter of system calls, see ``call_filter``.
        environment: Its environment variables.
        hidden: Folders that are shown empty.
        parent: Process id of the caller.
        pivot_root: Number of this system call on this machine.
        program: Path of the program in the new root.
        source_fd: Descriptor of the program's text.
        cpu_s: See ``safe_r1.sandbox.container.Limits``, as for the following.
        memory_mib: Address space.
        num_processes: Processes and threads.
        file_mib: Size of the folder for temporary files.
    """

    argv: list[str]
    binds: list[tuple[str, str]]
    call_filter: list[Instruction]
    environment: dict[str, str]
    hidden: list[str]
    parent: int
    pivot_root: int
    program: str
    source_fd: int
    cpu_s: int
    memory_mib: int
    num_processes: int
    file_mib: int


class Machine(NamedTuple):
    """Numbers of one processor architecture: as the audit system calls it, and of system calls."""

    architecture: int
    pivot_root: int
    sigaction: int
    refused: tuple[int, ...]


# Refused system calls reach what no namespace covers (vsock, key rings), memory that no resource limit counts
# (shared memory, memfd) or rarely used parts of the kernel: socket, socketpair, shmget, msgget, semget,
# ptrace, add_key, request_key, keyctl, unshare, perf_event_open, memfd_create, bpf, userfaultfd,
# memfd_secret, io_uring_setup.
_REFUSED_EVERYWHERE = (447, 425)
MACHINES = {
    "x86_64": Machine(0xC000003E, 155, 13, (41, 53, 29, 68, 64, 101, 248, 249, 250, 272, 298, 319, 321, 323)),
    "aarch64": Machine(
        0xC00000B7, 41, 134, (198, 199, 194, 186, 190, 117, 217, 218, 219, 97, 241, 279, 280, 282)
    ),
}
"""Name of an architecture to its numbers."""


def call_filter(machine: Machine) -> list[Instruction]:
    """The program that the kernel runs before each system call: refuses some, and allows all others."""
    numbers = (*machine.refused, *_REFUSED_EVERYWHERE)
    # Instructions of classic BPF.
    load = 0x20
    jump_equal = 0x15
    jump_from = 0x35
    answer = 0x06
    # Answers to a call; the refused one fails with EPERM, which libraries handle, unlike a kill.
    kill = 0x80000000
    allow = 0x7FFF0000
    refuse = 0x00050001
    # Places of the first argument's low half and of the two halves of the second (seccomp_data).
    signal_number = 16
    action = (24, 28)
    sigchld = 17
    # Numbers of calls depend on the architecture, which is therefore checked first; jumps are relative.
    return [
        (load, 0, 0, 4),
        (jump_equal, 1, 0, machine.architecture),
        (answer, 0, 0, kill),
        (load, 0, 0, 0),
        (jump_from, len(numbers) + 8, 0, 0x40000000),  # the same calls under their x32 numbers
        *((jump_equal, len(numbers) + 7 - place, 0, number) for place, number in enumerate(numbers)),
        # Who ignores the end of its children hides their time from the sums of its own. Reading is allowed.
        (jump_equal, 0, 6, machine.sigaction),
        (load, 0, 0, signal_number),
        (jump_equal, 0, 4, sigchld),
        (load, 0, 0, action[0]),
        (jump_equal, 0, 3, 0),
        (load, 0, 0, action[1]),
        (jump_equal, 0, 1, 0),
        (answer, 0, 0, allow),
        (answer, 0, 0, refuse),
    ]

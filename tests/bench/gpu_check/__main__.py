"""``make gpu-check``: one machine with a GPU, in at most ten minutes and without network.

1. ``versions``: packages, driver and GPU.
2. ``attention``: does variable-length attention work for the head sizes that are trained, and how fast is it?
3. ``losses``: loss and gradient norm of tiny models on the GPU in bf16 against those on the CPU in fp32.
4. ``training``: tokens/s, MFU and peak memory of a random 1.5B and 7B against the plan.
5. ``options``: step time and loss with other losses, with compiled layers and with FP8.
6. ``engine``: output tokens/s of the evaluation job on ``demo`` against bare ``vllm.LLM``.
7. ``service``: output tokens/s of the service on ``demo`` against the same.

Each part is a process with its own time-out. What is not installed is skipped. The exit code is 1 if a part
failed. Without a GPU, models are tiny and nothing is compared with the plan.
"""

import os
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.bench.gpu_check.processes import PARTS, run_parts
from tests.bench.gpu_check.rows import exit_code, table
from tests.bench.results import begin, make_parser, parse, write

_TOTAL_S = 600.0
# Both start engines, which takes minutes on CPU.
_NOT_IN_SMOKE = ("engine", "service")


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--device", choices=("auto", "cuda", "cpu"), default="auto", help="auto: a GPU if any"
    )
    parser.add_argument(
        "--time-scale", type=float, default=1.0, help="factor of all time-outs, for a slow machine"
    )
    args = parse(parser, time_scale=10.0)
    # Ended from outside, it ends its parts, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if args.device == "cpu":
        # Engines find the GPUs themselves.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    folder = Path(tempfile.mkdtemp(prefix="safe-r1-gpu-check-"))
    names = args.only or [name for name in PARTS if not (args.smoke and name in _NOT_IN_SMOKE)]
    arguments = ["--device", args.device, *(["--smoke"] if args.smoke else [])]
    results = begin(args)
    started = time.monotonic()
    rows = run_parts(names, arguments, folder, _TOTAL_S * args.time_scale, args.time_scale)
    results |= {
        "seconds": round(time.monotonic() - started, 1),
        "rows": [asdict(row) for row in rows],
    }
    print(table(rows))
    write(results, args.output, "gpu-check", folder)
    return exit_code(rows)


if __name__ == "__main__":
    sys.exit(main())

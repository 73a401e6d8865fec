# The image of GPU nodes, of the repository's root:
#   docker build -f cluster/images/gpu.Dockerfile -t safe-r1-gpu:0.1.0 .
# One for evaluation, serving and training. Same Ray, same Python as cpu.Dockerfile's; every package as cluster/local/lock.sh has
# locked it. CUDA comes with the wheels; the driver comes from the node.
ARG PYTHON=3.11.15
FROM python:${PYTHON}-slim-bookworm
# gcc: Triton compiles launchers while it runs. wget: KubeRay's probes. rsync: `ray up`.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ gcc git libnuma1 procps rsync wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 --shell /bin/bash ray \
 && pip install --no-cache-dir uv==0.13.9
# Jobs start here: `python ray_jobs/evaluate.py` is the command on a cluster as it is on a laptop.
WORKDIR /opt/safe_r1
COPY pyproject.toml README.md LICENSE ./
COPY cluster/local cluster/local
COPY safe_r1 safe_r1
COPY ray_jobs ray_jobs
RUN uv pip install --system --no-cache --no-deps --compile-bytecode -r cluster/local/locked-gpu.txt --editable .
USER 1000
# Imports everything that any job imports; needs no GPU and no network.
RUN python -m safe_r1.selfcheck --role all

# The image of heads and CPU nodes, of the repository's root:
#   docker build -f cluster/images/cpu.Dockerfile -t safe-r1-cpu:0.1.0 .
# Every package as cluster/local/lock.sh has locked it; the same Python as gpu.Dockerfile's.
ARG PYTHON=3.11.15
FROM python:${PYTHON}-slim-bookworm
# gcc: torch compiles for the CPU. wget: KubeRay's probes. rsync, SSH and boto3: a head of `ray up` starts other machines.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ gcc git libnuma1 openssh-client procps rsync wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 --shell /bin/bash ray \
 && pip install --no-cache-dir uv==0.13.9
# Jobs start here: `python ray_jobs/evaluate.py` is the command on a cluster as it is on a laptop.
WORKDIR /opt/safe_r1
COPY pyproject.toml README.md LICENSE ./
COPY cluster/local cluster/local
COPY safe_r1 safe_r1
COPY ray_jobs ray_jobs
# CPU builds (torch) come from an index of their own, which has not every version of what is no such build.
RUN uv pip install --system --no-cache --no-deps --torch-backend cpu $(grep '+cpu$' cluster/local/locked-cpu.txt) \
 && uv pip install --system --no-cache --no-deps --compile-bytecode -r cluster/local/locked-cpu.txt --editable .
USER 1000
# Imports everything that any job imports; needs no network.
RUN python -m safe_r1.selfcheck --role all

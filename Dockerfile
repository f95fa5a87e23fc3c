# difflow in a container, without a compiler in it. `docker build -t difflow .`, then
# `docker run --rm -it --shm-size=1g -p 8600:8600 -v demo:/demo difflow sh -c 'difflow init . && difflow run'`.
FROM rust:1.95-bookworm AS wheel
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install -y --no-install-recommends python3-venv && \
    rm -rf /var/lib/apt/lists/*
COPY . /difflow
WORKDIR /difflow
RUN make wheel

# The glibc of the stage above, or a newer one.
FROM python:3.11-slim-bookworm
# PyTorch for the CPU is a fifth of the one for CUDA, which PyPI has: build with --build-arg TORCH=https://pypi.org/simple for a GPU.
ARG TORCH=https://download.pytorch.org/whl/cpu
RUN --mount=type=bind,from=wheel,source=/difflow/dist,target=/dist \
    pip install --no-cache-dir --extra-index-url "$TORCH" /dist/difflow-*.whl && \
    useradd --create-home --uid 1000 difflow && \
    install -d -o difflow /demo
USER 1000
WORKDIR /demo
CMD ["difflow", "--help"]

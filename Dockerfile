# The program in the versions of constraints.txt; docs/how-to/install.md shows its use.
#   docker build --tag distillation .
# Build arguments: PYTHON, the version of Python; EXTRAS, optional extras such as onnx,approximate;
# TORCH_INDEX, the address of an index of PyTorch wheels. Without TORCH_INDEX the image has the
# default wheels, which contain CUDA and also run on CPUs. PyTorch's index of CPU wheels makes an
# image for CPUs that is several GB smaller.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=""
ARG EXTRAS=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/distillation
ENV PATH=/opt/distillation/bin:$PATH
WORKDIR /project
COPY constraints.txt ./
# --no-deps: the index of a PyTorch build provides only these two packages
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-deps --index-url "$TORCH_INDEX" --constraint constraints.txt torch torchvision; \
    fi
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE run.py ./
COPY configs ./configs
COPY methods ./methods
COPY search_spaces ./search_spaces
COPY orchestrator ./orchestrator
RUN pip install --constraint constraints.txt ".${EXTRAS:+[$EXTRAS]}"

FROM python:${PYTHON}-slim
# wget: KubeRay checks the health of a node with it. profile.d: KubeRay starts Ray in a login shell.
# The user 1000 of the group 100 is that of configs/cluster/kuberay.yaml.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 --gid 100 distil \
    && install --directory --owner 1000 --group 100 --mode 0700 /store \
    && echo 'export PATH=/opt/distillation/bin:$PATH' > /etc/profile.d/distillation.sh
COPY --from=build /opt/distillation /opt/distillation
ENV PATH=/opt/distillation/bin:$PATH \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:100
# relative paths, as --store runs and --config my.yaml, are below the volume
WORKDIR /store
VOLUME /store
ENTRYPOINT ["distil"]
CMD ["--help"]

# The daemon as an image: docker build -t dstackd .
# Two stages, so that nothing which builds (pip, hatchling, the source) is in what runs.

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
WORKDIR /source
# The packages first: this layer is made again only when a requirements file changes.
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements/build.txt \
    && python -m venv --without-pip /opt/dstackd \
    && python -m pip --python /opt/dstackd/bin/python install \
        --require-hashes --only-binary :all: -r requirements/runtime.txt
COPY pyproject.toml README.md ./
COPY migrations migrations
COPY daemon daemon
RUN /opt/build/bin/python -m hatchling build --target wheel \
    && python -m pip --python /opt/dstackd/bin/python install --no-deps --no-index dist/*.whl

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="dstackd" \
    org.opencontainers.image.description="Insert a row, get an EC2 machine, get the logs, the artifacts and the exit code back"
# Numeric, so that an orchestrator can see that it is not root; the same figures as the folders' owner.
RUN groupadd --gid 10001 dstackd \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/dstackd --no-create-home \
        --shell /usr/sbin/nologin dstackd \
    && install -d -o 10001 -g 10001 -m 2770 /var/lib/dstackd \
    && install -d -o 10001 -g 10001 -m 0750 /run/dstackd \
    && install -d -o 0 -g 10001 -m 0750 /etc/dstackd
COPY --from=build /opt/dstackd /opt/dstackd
ENV PATH=/opt/dstackd/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/dstackd
VOLUME ["/var/lib/dstackd"]
# A stop leaves the machines running; the next start goes on with them.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 CMD ["dstackd", "healthcheck"]
ENTRYPOINT ["dstackd"]
CMD ["run", "--config", "/etc/dstackd/dstackd.toml"]

# Coordinator: SuperLink, SuperExec, label service and metrics. Build from the repository's root:
#   docker build --file deploy/docker/server.Dockerfile --tag fedstill-server .
FROM python:3.11.11-slim-bookworm AS build
WORKDIR /opt/fedstill
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY fedstill fedstill
COPY common common
COPY clients clients
COPY server server
COPY protos protos
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --constraint constraints.txt ".[server,datasets]"

FROM python:3.11.11-slim-bookworm
RUN useradd --uid 10001 --create-home --home-dir /var/lib/fedstill fedstill
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FEDSTILL_HOME=/var/lib/fedstill/home \
    FLWR_HOME=/var/lib/fedstill/flower \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1 \
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 \
    FLWR_SUPEREXEC_TASK_POLL_INTERVAL=0.25
USER 10001
WORKDIR /var/lib/fedstill
# SuperLink, metrics, label service.
EXPOSE 8000 9400 9500
ENTRYPOINT ["fedstill"]
CMD ["coordinator", "--help"]

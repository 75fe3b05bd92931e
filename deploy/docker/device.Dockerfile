# A device: SuperNode, student and label cache; no Ray and no server code. Build from the repository's root:
#   docker build --file deploy/docker/device.Dockerfile --tag fedstill-device .
FROM python:3.11.11-slim-bookworm AS build
WORKDIR /opt/fedstill
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY fedstill fedstill
COPY common common
COPY clients clients
COPY protos protos
COPY deploy/device deploy/device
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --constraint constraints.txt tomli-w \
 && /opt/venv/bin/python deploy/device/device_wheel.py dist \
 && /opt/venv/bin/pip install --no-cache-dir --constraint constraints.txt "$(ls dist/*.whl)[node]"

FROM python:3.11.11-slim-bookworm
RUN useradd --uid 10001 --create-home --home-dir /var/lib/fedstill fedstill
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FEDSTILL_HOME=/var/lib/fedstill/home
USER 10001
WORKDIR /var/lib/fedstill
ENTRYPOINT ["fedstill-node"]
CMD ["run", "--help"]

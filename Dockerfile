# Builds the environment, llama.cpp included (some minutes), with a compiler that the final image does not have.
FROM python:3.11-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++ make && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir uv
WORKDIR /app
# The oldest instruction set that is common: the image is to run on other machines than the one that builds it.
ENV CMAKE_ARGS="-DGGML_NATIVE=OFF" UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy
COPY pyproject.toml uv.lock ./
RUN uv sync --locked --no-dev --extra postgres --extra redis

FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home drover && install --directory --owner drover --mode 0700 /data
WORKDIR /app
COPY --from=build /app/.venv .venv
COPY . .
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 \
    SERVER_HOST=0.0.0.0 DATA_DIRECTORY=/data LLAMACPP_MODELS_DIRECTORY=/data/models
USER drover
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "from os import environ as e; from urllib.request import urlopen; urlopen(f\"http://127.0.0.1:{e.get('SERVER_PORT', '8000')}/health/live\", timeout=4)"]
ENTRYPOINT ["python", "server.py"]

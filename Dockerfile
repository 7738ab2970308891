# r1kit on a CPU. Untried by the authors: there was no Docker on their machines.
#   docker build -t r1kit . && docker run --rm -it -v "$PWD/runs:/work/runs" r1kit run mini
# PyPI's torch for Linux is a CUDA build of some gigabytes; pip's words for another one: --build-arg TORCH="torch==2.13.0 --index-url ..."
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends g++ git make && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ARG TORCH="torch==2.13.0"
RUN pip install --no-cache-dir $TORCH && pip install --no-cache-dir ".[serve,ui]" -c constraints.txt
RUN useradd --create-home r1kit && mkdir /work && chown r1kit /work
USER r1kit
WORKDIR /work
ENTRYPOINT ["r1kit"]
CMD ["doctor"]

# The environment of `make env`, from requirements.lock, with the code:
#   docker build --tag pwm .
#   docker run --rm --volume "$PWD/out:/out" pwm --cores 2
# GPUs need NVIDIA's container toolkit and `docker run --gpus all`. hadolint passes; the image was not built yet.
FROM python:3.11-slim-bookworm

# g++ for `compile: true` on a CPU, git for the commit in manifests.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/pwm
# The packages first: they change less often than the code.
COPY Makefile requirements.lock ./
RUN make env && rm -rf /root/.cache/pip
COPY . .
ENV PATH="/opt/pwm/.venv/bin:$PATH"
ENTRYPOINT ["snakemake", "--snakefile", "/opt/pwm/Snakefile", "--directory", "/out"]
CMD ["--cores", "all"]

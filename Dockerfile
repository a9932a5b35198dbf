# Also built by the classic builder (CapRover), so without --mount and --chmod.
#   docker build -t backupd .        or scripts/image, which fills in the labels

# The base by its digest: --build-arg BASE=python:3.13-slim-trixie@sha256:…
ARG BASE=python:3.13-slim-trixie
FROM $BASE AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_ONLY_BINARY=:all:
RUN python3 -m venv --without-pip /opt/backupd
WORKDIR /build
# Dependencies are a layer of their own: a change of the source does not fetch them again.
COPY requirements.lock ./
RUN pip --python /opt/backupd/bin/python install --no-compile --no-deps --require-hashes -r requirements.lock
COPY . .
RUN pip wheel --no-deps --wheel-dir /wheels . \
    && pip --python /opt/backupd/bin/python install --no-compile --no-deps /wheels/*.whl \
    && /opt/backupd/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/backupd/lib

FROM $BASE
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/lib/dpkg/*-old /var/cache/debconf/*-old \
        /var/cache/ldconfig/aux-cache \
    && python -B -m pip uninstall --yes --quiet --root-user-action=ignore pip
COPY --from=build /opt/backupd /opt/backupd
# A fresh volume gets this mode: backupd can write there as any user, without CHOWN.
RUN mkdir -m 1777 /backups \
# What a gate remembers (backupd gate), which runs as root; its tests are another user's.
    && mkdir -p -m 700 /var/lib/backupd/gate
ENV PATH=/opt/backupd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PUID=auto \
    BACKUPD_HTTP__LISTEN=0.0.0.0:8080
# The base has no compiled modules, and none can be written at run time: the imported ones are compiled here.
RUN python -c 'import apprise, pkgutil, backupd; apprise.Apprise().add("json://localhost"); \
[__import__(m.name) for m in pkgutil.walk_packages(backupd.__path__, "backupd.") if not m.name.endswith("__main__")]'
ENV PYTHONDONTWRITEBYTECODE=1

# scripts/image fills these in; without it, they are those of the release that this file belongs to.
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=v0.1.0
ARG CREATED=2026-11-30T00:00:00Z
LABEL org.opencontainers.image.title="backupd" \
      org.opencontainers.image.description="Automatic, verified backups of SQLite apps, with restores that are rehearsed" \
      org.opencontainers.image.vendor="backupd" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.url="https://example.com/backupd" \
      org.opencontainers.image.source="https://example.com/backupd" \
      org.opencontainers.image.documentation="https://example.com/backupd/src/branch/main/docs" \
      org.opencontainers.image.base.name="docker.io/library/$BASE" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"

EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 CMD ["backupd", "health"]
# As the first process it starts tini in its place, with an environment that holds no secrets, and itself below it.
# The kernel drops a signal to a first process that has no handler for it yet; one that is blocked waits for it.
ENTRYPOINT ["env", "--block-signal=TERM,INT,HUP", "backupd"]
CMD ["serve"]

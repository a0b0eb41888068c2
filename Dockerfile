# The server alone, as nobody. `docker compose up` builds it and runs a cluster of it; a single node
# with its log in a volume is
#
#     docker build -t verbatim . && docker run -p 8080:8080 -v verbatim:/verbatim/data verbatim

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
COPY . .
# What was compiled and downloaded before stays in the caches, not in the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin verbatim && cp target/release/verbatim /usr/local/bin/
# Most of the file is for debuggers. It stays here, beside the program and known to it by name, for
# `docker build --target build`. The names of functions, for backtraces, stay in the program.
RUN cd /usr/local/bin \
    && objcopy --only-keep-debug verbatim verbatim.debug \
    && objcopy --strip-debug --add-gnu-debuglink=verbatim.debug verbatim

# The same Debian, whose C library the program is linked to.
FROM debian:12-slim
# Whom to trust when PostgreSQL and Redis are reached with TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /usr/local/bin/verbatim /usr/local/bin/verbatim
# The embedded log, for a node without PostgreSQL, is the only thing that a node writes.
RUN install --directory --owner=65532 --group=65532 /verbatim /verbatim/data
WORKDIR /verbatim
USER 65532:65532
# Within a container everybody who can reach it is let in; what is published decides who that is.
ENV VERBATIM_SERVER__LISTEN=0.0.0.0:8080
EXPOSE 8080
# The same program asks: there is no curl here, nor anything else that is not needed.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["verbatim", "health"]
ENTRYPOINT ["verbatim"]

# kvasird and kvasir with the bundled model.
#
#   docker build -t kvasir .
#   docker run --rm -p 127.0.0.1:50051:50051 -p 127.0.0.1:8080:8080 -p 127.0.0.1:9464:9464 --read-only --cap-drop ALL kvasir
#   docker run --rm -p 127.0.0.1:50051:50051 -v /my/models:/models:ro kvasir \
#       --model my=/models/my --listen 0.0.0.0:50051 --anonymous allow
#
# Whoever reaches a port that is open to the network may call: see deploy/docker-compose.tls.yaml for keys and TLS.
# Give docker stop more time than the drain limit (30 s): docker stop -t 40.
FROM debian:12 AS build
COPY deploy/install_dependencies.sh /src/deploy/
RUN /src/deploy/install_dependencies.sh build
WORKDIR /src
COPY . .
# Needs crates.io, or text/vendor (docs/building.md).
RUN cmake --preset release -DBUILD_TESTING=OFF \
    && cmake --build --preset release --target kvasird kvasir \
    && strip build/release/bin/kvasird build/release/bin/kvasir build/release/bin/kvasir-convert

FROM debian:12-slim AS assemble
COPY deploy/install_dependencies.sh deploy/assemble_image.sh /src/deploy/
RUN /src/deploy/install_dependencies.sh run
COPY --from=build /src/build/release/bin/kvasird /src/build/release/bin/kvasir /src/build/release/bin/kvasir-convert /usr/local/bin/
# sleep: Kubernetes runs it before it stops a container.
RUN /src/deploy/assemble_image.sh /image /usr/local/bin/kvasird /usr/local/bin/kvasir /usr/local/bin/kvasir-convert /usr/bin/sleep

# About 115 MB without the model (tests/image_test.py says it): mostly oneDNN, gRPC and the three programs.
FROM scratch
# Models by name are kept in /hub: mount a volume there.
ENV PATH=/usr/local/bin:/usr/bin HF_HOME=/hub
LABEL org.opencontainers.image.title="kvasir" \
      org.opencontainers.image.description="Serves language models from CPUs over gRPC" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=assemble /image /
COPY deploy/models /models
COPY LICENSE /usr/share/doc/kvasir/copyright

# A number, so that Kubernetes' runAsNonRoot can check it. Nothing is written: the root may be read-only.
USER 10001:10001
EXPOSE 50051 8080 9464
# The first SIGTERM drains, the second stops.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=30s --retries=3 CMD ["kvasir", "health", "--timeout", "3"]
ENTRYPOINT ["/usr/local/bin/kvasird"]
CMD ["--model", "tale-7m-gqa2=/models/tale-7m-gqa2", "--listen", "0.0.0.0:50051", "--anonymous", "allow", "--http_listen", "0.0.0.0:8080", "--metrics_listen", "0.0.0.0:9464"]

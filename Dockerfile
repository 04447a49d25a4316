# An image that holds the program and nothing else: docker build -t iforest-server .

FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /src
COPY . .
# The program is static, so that the image needs no C library. cargo builds its own helpers, which cannot be
# static, without these flags only if the target has a name.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    target=$(rustc --print host-tuple) && \
    RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target "$target" && \
    install -D -t /image/usr/local/bin "target/$target/release/iforest-server"
# The authorities that sign the certificates of object stores, and a folder of models for the user of the image.
RUN install -D -m 644 -t /image/etc/ssl/certs /etc/ssl/certs/ca-certificates.crt && \
    install -d /image/var/lib && install -d -m 700 /store/iforest-server

FROM scratch
COPY --from=build /image /
# A new volume takes over owner and mode of the folder within; that of the copied folder itself some builders lose.
COPY --from=build --chown=65532:65532 /store /var/lib
ENV PATH=/usr/local/bin IFOREST_STORE=/var/lib/iforest-server
USER 65532:65532
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["iforest-server", "healthcheck"]
ENTRYPOINT ["iforest-server"]

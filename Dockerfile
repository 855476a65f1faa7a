# Both programs in one image: `docker run … tcpcopy -x …`, `docker run … intercept -F …`. docs/install.md has the whole
# command lines, with the capabilities that they need.

FROM rust:1.91-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libpcap-dev make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN cargo build --release --locked --package tcpcopy --bins \
    && strip target/release/tcpcopy target/release/intercept

FROM debian:bookworm-slim
# iptables is for `intercept --setup`, iproute2 for looking around.
RUN apt-get update \
    && apt-get install -y --no-install-recommends iproute2 iptables libpcap0.8 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /source/target/release/tcpcopy /source/target/release/intercept /usr/sbin/
COPY LICENSE /usr/share/doc/tcpcopy/LICENSE
# Root, and no file capabilities: where everything but NET_RAW and NET_ADMIN is dropped and no new privileges may be gained,
# as the examples have it, another user could not have the two, and root has nothing else.
CMD ["tcpcopy", "-h"]

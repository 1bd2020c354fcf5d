# The Node that the tests run under; package.json names the same one.
ARG NODE_IMAGE=node:24.21.0-bookworm-slim

FROM ${NODE_IMAGE} AS build
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY scripts/build.mjs scripts/
COPY src src
COPY sim sim
RUN node scripts/build.mjs

FROM ${NODE_IMAGE} AS packages
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund

FROM ${NODE_IMAGE}
LABEL org.opencontainers.image.title="Fairlead" \
      org.opencontainers.image.description="Routes LLM requests in Envoy and Istio" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /app
COPY package.json ./
COPY bin bin
COPY protos protos
COPY --from=packages /app/node_modules node_modules
COPY --from=build /app/dist dist
ENV NODE_ENV=production \
    FAIRLEAD_NODE=/usr/local/bin/node
# Numbers, so that Kubernetes can prove it is not root.
USER 1000:1000
# 9002: ext_proc, access log, gRPC health. 9003: /healthz, /readyz, /metrics, API.
EXPOSE 9002 9003
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 \
  CMD ["node", "-e", "fetch('http://127.0.0.1:9003/readyz').then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["/app/bin/fairlead"]
CMD ["serve", "--config", "/etc/fairlead/fairlead.yaml"]

import { isIP } from 'node:net';
import { parseHostPort } from '../config/schema.ts';

/** How Envoy's side of TLS finds what it needs: paths on Envoy's machine. */
export interface ClusterTls {
  /** CA that the certificate of `listen.tls` is signed by. */
  readonly ca: string;
  /** Where Fairlead asks clients for a certificate. */
  readonly client?: { readonly cert: string; readonly key: string } | undefined;
}

export interface ClusterOptions {
  /** Name of the cluster, to which the ext_proc filter and the access log refer. */
  readonly name: string;
  /** One for each worker: `host:port`, IPv6 in brackets, or `unix:/path`. */
  readonly endpoints: readonly string[];
  readonly tls?: ClusterTls | undefined;
}

/**
 * Envoy's cluster of Fairlead, as envoy/envoy.yaml has it: for decisions and access logs alike, one endpoint for each worker. Envoy keeps
 * one HTTP/2 connection for each of its own threads and endpoint, so that a port with several workers behind it would leave some idle.
 */
export function createEnvoyCluster({ name, endpoints, tls }: ClusterOptions): Readonly<Record<string, unknown>> {
  const isNamed = endpoints.some((endpoint) => !endpoint.startsWith('unix:') && isIP(parseHostPort(endpoint)?.host ?? '') === 0);
  return {
    name,
    type: isNamed ? 'STRICT_DNS' : 'STATIC',
    connect_timeout: '0.25s',
    lb_policy: 'LEAST_REQUEST',
    common_lb_config: { healthy_panic_threshold: { value: 1 } },
    typed_extension_protocol_options: {
      'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
        '@type': 'type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions',
        explicit_http_config: {
          http2_protocol_options: {
            initial_stream_window_size: 1_048_576,
            initial_connection_window_size: 16_777_216,
            connection_keepalive: { interval: '10s', timeout: '5s' },
          },
        },
      },
    },
    ...(tls && { transport_socket: toTransportSocket(tls) }),
    circuit_breakers: { thresholds: [{ max_connections: 20_000, max_pending_requests: 20_000, max_requests: 20_000, max_retries: 1_000 }] },
    health_checks: [
      {
        grpc_health_check: { service_name: 'readiness', authority: name },
        timeout: '1s',
        interval: '0.5s',
        no_traffic_interval: '0.5s',
        unhealthy_threshold: 3,
        healthy_threshold: 1,
      },
    ],
    outlier_detection: {
      split_external_local_origin_errors: true,
      consecutive_local_origin_failure: 3,
      consecutive_5xx: 10,
      enforcing_success_rate: 0,
      enforcing_local_origin_success_rate: 0,
      interval: '1s',
      base_ejection_time: '2s',
      max_ejection_time: '10s',
      max_ejection_percent: 50,
    },
    load_assignment: {
      cluster_name: name,
      endpoints: [{ lb_endpoints: endpoints.map((endpoint) => ({ endpoint: { address: toAddress(endpoint) } })) }],
    },
  };
}

function toAddress(endpoint: string): Readonly<Record<string, unknown>> {
  if (endpoint.startsWith('unix:')) return { pipe: { path: endpoint.slice('unix:'.length) } };
  const { host, port } = parseHostPort(endpoint) ?? { host: endpoint, port: 0 };
  return { socket_address: { address: host, port_value: port } };
}

function toTransportSocket({ ca, client }: ClusterTls): Readonly<Record<string, unknown>> {
  return {
    name: 'envoy.transport_sockets.tls',
    typed_config: {
      '@type': 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext',
      common_tls_context: {
        alpn_protocols: ['h2'],
        ...(client && { tls_certificates: [{ certificate_chain: { filename: client.cert }, private_key: { filename: client.key } }] }),
        validation_context: { trusted_ca: { filename: ca } },
      },
    },
  };
}

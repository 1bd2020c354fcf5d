// The model servers of the benchmark: an Envoy that takes each request whole and answers with fixed text. It is as cheap as a server can be
// and there wherever the benchmark runs.
import { type EnvoyConfig, type EnvoyProcess, freePorts, startEnvoy } from '../../lab/envoy-process.ts';

/** Running model servers. */
export interface Upstream {
  readonly pid: number;
  /** `127.0.0.1:PORT` of each. */
  readonly endpoints: readonly string[];
  stop(): Promise<void>;
}

const bodyBytesMax = 16 * 1024 * 1024;
const answer = JSON.stringify({
  id: 'chatcmpl-bench',
  object: 'chat.completion',
  created: 1_760_000_000,
  model: 'bench-model',
  choices: [{ index: 0, message: { role: 'assistant', content: 'Two tugs, and wait for slack water.' }, finish_reason: 'stop' }],
  usage: { prompt_tokens: 1_024, completion_tokens: 9, total_tokens: 1_033 },
});

/** Starts one process that listens on `count` ports. */
export async function startUpstream(count: number): Promise<Upstream> {
  const ports = await freePorts(count);
  const envoy: EnvoyProcess = await startEnvoy({ config: render(ports), concurrency: 1 });
  return { pid: envoy.pid, endpoints: ports.map((port) => `127.0.0.1:${port}`), stop: () => envoy.stop() };
}

function render(ports: readonly number[]): EnvoyConfig {
  const address = (port: number | undefined): { socket_address: { address: string; port_value: number } } => ({
    socket_address: { address: '127.0.0.1', port_value: port ?? 0 },
  });
  const [first, ...others] = ports;
  const config = {
    admin: { address: address(0) },
    static_resources: {
      listeners: [
        {
          name: 'models',
          address: address(first),
          additional_addresses: others.map((port) => ({ address: address(port) })),
          filter_chains: [
            {
              filters: [
                {
                  name: 'envoy.filters.network.http_connection_manager',
                  typed_config: {
                    '@type': 'type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager',
                    stat_prefix: 'models',
                    http_filters: [
                      {
                        // Without it the answer would come before the body, and the connection be closed over the rest.
                        name: 'envoy.filters.http.buffer',
                        typed_config: {
                          '@type': 'type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer',
                          max_request_bytes: bodyBytesMax,
                        },
                      },
                      {
                        name: 'envoy.filters.http.router',
                        typed_config: { '@type': 'type.googleapis.com/envoy.extensions.filters.http.router.v3.Router' },
                      },
                    ],
                    route_config: {
                      virtual_hosts: [
                        {
                          name: 'models',
                          domains: ['*'],
                          routes: [
                            {
                              name: 'answer',
                              match: { prefix: '/' },
                              direct_response: { status: 200, body: { inline_string: answer } },
                              response_headers_to_add: [{ header: { key: 'content-type', value: 'application/json' }, append_action: 'OVERWRITE_IF_EXISTS_OR_ADD' }],
                            },
                          ],
                        },
                      ],
                    },
                  },
                },
              ],
            },
          ],
        },
      ],
      clusters: [],
    },
  };
  return config as unknown as EnvoyConfig;
}

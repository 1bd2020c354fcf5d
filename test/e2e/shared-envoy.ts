import type { EnvoyConfig } from '../../lab/envoy-process.ts';

type Listener = EnvoyConfig['static_resources']['listeners'][number];

/** The HTTP connection manager of a rendered configuration, open to changes that no option makes. */
export function connectionManager(config: EnvoyConfig): Listener['filter_chains'][number]['filters'][number]['typed_config'] {
  const manager = config.static_resources.listeners[0]?.filter_chains[0]?.filters[0]?.typed_config;
  if (manager === undefined) throw new Error('the configuration has no HTTP connection manager');
  return manager;
}

/**
 * One Envoy with the listener of each of several configurations, so that a file that tries many of them starts one process.
 * Listeners, and the prefixes of their statistics, get the given names. Clusters, runtime and all else are those of the first.
 */
export function withListeners(configs: Readonly<Record<string, EnvoyConfig>>): EnvoyConfig {
  const [first] = Object.values(configs);
  if (first === undefined) throw new Error('no configuration given');
  const whole = structuredClone(first);
  whole.static_resources.listeners = Object.entries(configs).map(([name, config]) => {
    const own = structuredClone(config);
    connectionManager(own)['stat_prefix'] = name;
    const [listener] = own.static_resources.listeners;
    if (listener === undefined) throw new Error(`${name} has no listener`);
    return { ...listener, name };
  });
  return whole;
}

/**
 * Sets the largest body that is buffered. The route's own limit is not enough for less than 1 MiB: that much the connection may hold,
 * and the larger of the two counts.
 */
export function limitBodies(config: EnvoyConfig, bytes: number): EnvoyConfig {
  for (const listener of config.static_resources.listeners) Object.assign(listener, { per_connection_buffer_limit_bytes: bytes });
  for (const host of connectionManager(config).route_config.virtual_hosts) host.request_body_buffer_limit = bytes;
  return config;
}

const failureMark = 'request failed: ';

/** Has Envoy write a line on each request that it answers with an error, for {@link failuresIn}. */
export function noteFailures(config: EnvoyConfig): EnvoyConfig {
  const manager = connectionManager(config);
  const inlineString = `${failureMark}%START_TIME% %REQ(:METHOD)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% after %DURATION% ms, upstream %UPSTREAM_HOST%\n`;
  manager.access_log = [
    ...(manager.access_log ?? []),
    {
      name: 'envoy.access_loggers.stdout',
      filter: { status_code_filter: { comparison: { op: 'GE', value: { default_value: 400, runtime_key: 'unused' } } } },
      typed_config: {
        '@type': 'type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog',
        log_format: { text_format_source: { inline_string: inlineString } },
      },
    } as NonNullable<typeof manager.access_log>[number],
  ];
  return config;
}

/** What Envoy noted of failed requests: why a test that allows none has failed. */
export function failuresIn(log: string): string {
  return log
    .split('\n')
    .filter((line) => line.includes(failureMark))
    .slice(0, 20)
    .join('\n');
}

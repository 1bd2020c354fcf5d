import type { CompiledConfig } from '../config/load-outcome.ts';
import { parseHostPort } from '../config/schema.ts';
import type { SharedState } from '../fleet/shared-state.ts';
import type { ForwardedCompletion } from '../router/exchange-messages.ts';
import { createMemoryExchange } from '../router/memory-exchange.ts';
import type { Clock, ExchangeEvents, StateExchange } from '../router/ports.ts';
import type { RedisSettings } from '../redis/settings.ts';

export interface ExchangeParts {
  readonly routerId: string;
  readonly state: SharedState;
  readonly clock: Clock;
  readonly events: ExchangeEvents;
  readonly onForwarded: (report: ForwardedCompletion) => void;
}

/** The exchange that the configuration asks for. Redis' client is loaded only where it is used. */
export async function createExchange(config: CompiledConfig, parts: ExchangeParts): Promise<StateExchange> {
  const settings = toRedisSettings(config);
  if (settings === undefined) return createMemoryExchange();
  const { createRedisExchange } = await import('../redis/redis-exchange.ts');
  return createRedisExchange({ settings, ...parts });
}

function toRedisSettings({ settings: { state }, files }: CompiledConfig): RedisSettings | undefined {
  if (state.kind === 'memory') return undefined;
  const nodes = (texts: readonly string[]): { host: string; port: number }[] => texts.flatMap((text) => parseHostPort(text) ?? []);
  return {
    url: state.url,
    keyPrefix: state.keyPrefix,
    username: state.username,
    password: state.password ?? files.redisPassword,
    tls: state.tls && { ca: files.redisCa, cert: files.redisCert, key: files.redisKey, serverName: state.tls.serverName },
    sentinel: state.sentinel && {
      nodes: nodes(state.sentinel.nodes),
      name: state.sentinel.name,
      username: state.sentinel.username,
      password: state.sentinel.password,
    },
    cluster: state.cluster && { nodes: nodes(state.cluster.nodes) },
    connectTimeoutMs: state.connectTimeoutMs,
    commandTimeoutMs: state.commandTimeoutMs,
    snapshotMs: state.snapshotMs,
    pushEventsPerSecondMax: state.pushEventsPerSecondMax,
  };
}

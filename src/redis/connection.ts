import type { ConnectionOptions } from 'node:tls';
import { Cluster, Redis, type RedisOptions } from 'ioredis';
import type { ExchangeTrouble } from '../router/ports.ts';
import type { RedisSettings } from './settings.ts';

/** A client of a single server, of a Sentinel's master, or of a cluster. */
export type RedisClient = Redis | Cluster;

/** Longest wait between two attempts to connect, in ms: recovery must be quick, and attempts are cheap. */
const retryMsMax = 1_000;

/**
 * Creates a client that never makes anyone wait: no offline queue, no retries of commands, time-outs on connecting, on commands and
 * on silent sockets. It reconnects by itself, for good.
 */
export function createClient(settings: RedisSettings, role: 'commands' | 'subscriber'): RedisClient {
  const { username, password, db, host, port, tls } = target(settings);
  const retryStrategy = (times: number): number => Math.min(50 * 2 ** Math.min(times, 6), retryMsMax) * (0.75 + Math.random() / 2);
  const common = {
    ...(username !== undefined && { username }),
    ...(password !== undefined && { password }),
    ...(tls !== undefined && { tls }),
    protocol: 2,
    connectionName: `fairlead-${role}`,
    connectTimeout: settings.connectTimeoutMs,
    commandTimeout: settings.commandTimeoutMs,
    // A subscriber hears its own router's snapshots all the time: silence on its socket means that it is dead.
    socketTimeout: Math.max(2_000, settings.commandTimeoutMs * 4),
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    // After a failover the old master answers READONLY: the new one is found by connecting again.
    reconnectOnError: (error: Error) => /^(READONLY|UNBLOCKED|MASTERDOWN)/.test(error.message),
  } satisfies RedisOptions;

  if (settings.cluster !== undefined) {
    return new Cluster([...settings.cluster.nodes], {
      lazyConnect: true,
      enableOfflineQueue: false,
      clusterRetryStrategy: retryStrategy,
      retryDelayOnFailover: 0,
      retryDelayOnClusterDown: 0,
      retryDelayOnTryAgain: 0,
      maxRedirections: 3,
      slotsRefreshTimeout: settings.connectTimeoutMs,
      redisOptions: common,
    });
  }
  const single = { ...common, db, lazyConnect: true, enableOfflineQueue: false, retryStrategy };
  if (settings.sentinel !== undefined) {
    const { nodes, name, username: sentinelUsername, password: sentinelPassword } = settings.sentinel;
    return new Redis({
      ...single,
      sentinels: [...nodes],
      name,
      failoverDetector: true,
      sentinelRetryStrategy: retryStrategy,
      sentinelCommandTimeout: settings.commandTimeoutMs,
      ...(sentinelUsername !== undefined && { sentinelUsername }),
      ...(sentinelPassword !== undefined && { sentinelPassword }),
      ...(tls !== undefined && { enableTLSForSentinelMode: true, sentinelTLS: tls }),
    });
  }
  return new Redis({ ...single, host, port });
}

interface Target {
  readonly host: string;
  readonly port: number;
  readonly db: number;
  readonly username: string | undefined;
  readonly password: string | undefined;
  readonly tls: ConnectionOptions | undefined;
}

function target({ url, username, password, tls }: RedisSettings): Target {
  const parsed = new URL(url);
  const given = (text: string): string | undefined => (text === '' ? undefined : decodeURIComponent(text));
  const options: ConnectionOptions = {
    ...(tls?.ca !== undefined && { ca: tls.ca }),
    ...(tls?.cert !== undefined && { cert: tls.cert }),
    ...(tls?.key !== undefined && { key: tls.key }),
    ...(tls?.serverName !== undefined && { servername: tls.serverName }),
  };
  return {
    host: parsed.hostname.replace(/^\[|\]$/g, ''),
    port: parsed.port === '' ? 6379 : Number(parsed.port),
    db: Number(parsed.pathname.slice(1) || 0),
    username: username ?? given(parsed.username),
    password: password ?? given(parsed.password),
    tls: parsed.protocol === 'rediss:' || tls !== undefined ? options : undefined,
  };
}

/** Why Redis cannot be used. */
export interface RedisTrouble extends ExchangeTrouble {
  /** Stable code. */
  readonly code: 'unreachable' | 'tls' | 'expects-tls' | 'no-tls' | 'credentials' | 'permission' | 'read-only' | 'out-of-memory' | 'timeout' | 'other';
}

/** Names the cause of an error of the client. */
export function explainTrouble(error: Error & { code?: string }, where: string): RedisTrouble {
  const { message, code = '' } = error;
  const trouble = (kind: RedisTrouble['code'], text: string, permanent = false): RedisTrouble => ({ code: kind, message: `Redis at ${where}: ${text}`, permanent });
  if (/WRONGPASS|NOAUTH|invalid password|without any password configured/i.test(message)) {
    return trouble('credentials', `it refused user or password (${message}). Check state.url, state.username and state.password.`, true);
  }
  if (/NOPERM/i.test(message)) return trouble('permission', `the ACL user may not do what Fairlead needs (${message}). docs/redis.md lists it.`, true);
  if (code === 'ERR_SSL_WRONG_VERSION_NUMBER' || /wrong version number|packet length too long/i.test(message)) {
    return trouble('no-tls', 'the port does not speak TLS. Use redis:// and no state.tls, or the TLS port.', true);
  }
  if (/CERT|SELF_SIGNED|UNABLE_TO_VERIFY|UNABLE_TO_GET_ISSUER|ERR_TLS/.test(code) || /certificate|alert/i.test(message)) {
    return trouble('tls', `TLS failed: ${message} (${code === '' ? 'no code' : code}). Check state.tls.caFile, certFile and serverName.`, true);
  }
  if (message.startsWith('READONLY')) return trouble('read-only', 'it is a read-only replica. Waiting for a master.');
  if (message.startsWith('OOM')) return trouble('out-of-memory', 'it is out of memory: snapshots are not kept, messages still go through.');
  if (/timed out|timeout|ETIMEDOUT/i.test(message)) return trouble('timeout', `no answer in time (${message}).`);
  if (/ECONNREFUSED|ENOTFOUND|EHOSTUNREACH|ENETUNREACH|EAI_AGAIN/.test(code + message)) return trouble('unreachable', `cannot be reached (${code === '' ? message : code}).`);
  return trouble('other', message);
}

/** Where Redis is, for messages: without user or password. */
export function describeTarget(settings: RedisSettings): string {
  const nodes = settings.cluster?.nodes ?? settings.sentinel?.nodes;
  if (nodes !== undefined) {
    const list = nodes.map(({ host, port }) => `${host}:${port}`).join(', ');
    return settings.sentinel === undefined ? `cluster ${list}` : `master ${settings.sentinel.name} of sentinels ${list}`;
  }
  const { host, port } = target(settings);
  return `${host}:${port}`;
}

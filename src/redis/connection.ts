import type { ConnectionOptions } from 'node:tls';
import { Cluster, Redis, type RedisOptions } from 'ioredis';
import type { ExchangeTrouble } from '../router/ports.ts';
import { createConnector, createSentinelConnector, disconnectMsMax, openSocket } from './connectors.ts';
import type { NodeAddress, RedisSettings } from './settings.ts';

/** A client of a single server, of a Sentinel's master, or of a cluster. */
export type RedisClient = Redis | Cluster;

/** Longest wait between two attempts to connect, in ms: recovery must be quick, and attempts are cheap. */
const retryMsMax = 800;
/** Least time between two reconnections because the server said that it cannot be written to, in ms. */
const reconnectMsMin = 1_000;
/** How long a server is given to show whether it speaks TLS, in ms. */
const mismatchMsMax = 500;

/**
 * Creates a client that never makes anyone wait: no offline queue, no retries of commands, time-outs on connecting, on commands and
 * on silent sockets. It reconnects by itself, for good.
 */
export function createClient(settings: RedisSettings): RedisClient {
  const { cluster } = settings;
  if (cluster === undefined) return createSingle(settings, 'commands');
  return new Cluster([...cluster.nodes], {
    lazyConnect: true,
    enableOfflineQueue: false,
    clusterRetryStrategy: retryStrategy,
    retryDelayOnFailover: 0,
    retryDelayOnClusterDown: 0,
    retryDelayOnTryAgain: 0,
    maxRedirections: 3,
    slotsRefreshTimeout: settings.connectTimeoutMs,
    redisOptions: common(settings, 'commands'),
  });
}

/**
 * Creates the client for subscriptions, of which it has to be told after each connection. In a cluster every node passes on what is
 * published at any: this one connects to one node after the other, those that `client` found included, until one takes it.
 * (ioredis' own subscriber of a cluster tries dead nodes without a pause: it would take a processor for itself.)
 */
export function createSubscriber(settings: RedisSettings, client: RedisClient): Redis {
  const seeds = settings.cluster?.nodes;
  if (seeds === undefined) return createSingle(settings, 'subscriber');
  const nodes = (): NodeAddress[] => {
    const found = client instanceof Cluster ? client.nodes().map(({ options: { host = '', port = 0 } }) => ({ host, port })) : [];
    return [...seeds, ...found.filter(({ host, port }) => !seeds.some((seed) => seed.host === host && seed.port === port))];
  };
  const { tls } = target(settings);
  let turn = Math.floor(Math.random() * seeds.length);
  const nodeInTurn = createConnector(tls, () => {
    const all = nodes();
    turn += 1;
    return all[turn % all.length] ?? { host: '', port: 0 };
  });
  return new Redis({ ...common(settings, 'subscriber'), Connector: nodeInTurn, lazyConnect: true, enableOfflineQueue: false, retryStrategy });
}

function retryStrategy(times: number): number {
  return Math.min(50 * 2 ** Math.min(times, 6), retryMsMax) * (0.75 + Math.random() / 2);
}

function common(settings: RedisSettings, role: 'commands' | 'subscriber') {
  const { username, password, tls } = target(settings);
  let reconnectedMs = -Infinity;
  return {
    ...(username !== undefined && { username }),
    ...(password !== undefined && { password }),
    ...(tls !== undefined && { tls }),
    Connector: createConnector(tls),
    protocol: 2,
    connectionName: `fairlead-${role}`,
    connectTimeout: settings.connectTimeoutMs,
    commandTimeout: settings.commandTimeoutMs,
    // Without any answer to what was sent the connection is dead. Whether the subscriber's is, its own router's echo tells.
    socketTimeout: Math.max(2_000, settings.commandTimeoutMs * 4),
    disconnectTimeout: disconnectMsMax,
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    autoResubscribe: false,
    disableClientInfo: true,
    // After a failover the old master answers READONLY: the new one is found by connecting again.
    reconnectOnError: (error: Error) => {
      if (!/\b(READONLY|UNBLOCKED|MASTERDOWN)\b/.test(error.message) || performance.now() - reconnectedMs < reconnectMsMin) return false;
      reconnectedMs = performance.now();
      return true;
    },
  } satisfies RedisOptions;
}

function createSingle(settings: RedisSettings, role: 'commands' | 'subscriber'): Redis {
  const { db, host, port, tls } = target(settings);
  const single = { ...common(settings, role), db, lazyConnect: true, enableOfflineQueue: false, retryStrategy };
  if (settings.sentinel === undefined) return new Redis({ ...single, host, port });
  const { nodes, name, username, password } = settings.sentinel;
  return new Redis({
    ...single,
    Connector: createSentinelConnector(tls),
    sentinels: [...nodes],
    name,
    failoverDetector: true,
    sentinelRetryStrategy: retryStrategy,
    sentinelCommandTimeout: settings.commandTimeoutMs,
    ...(username !== undefined && { sentinelUsername: username }),
    ...(password !== undefined && { sentinelPassword: password }),
    ...(tls !== undefined && { enableTLSForSentinelMode: true, sentinelTLS: tls }),
  });
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

/** Whether Redis answered, if with an error; else it could not be asked, or did not answer. */
export function isReply(error: Error): boolean {
  return error.name === 'ReplyError';
}

/** Names the cause of an error of the client; undefined where it only says that there is no connection, not why. */
export function explainTrouble(error: Error & { code?: string; reason?: string }, where: string): RedisTrouble | undefined {
  const { message, code = '', reason } = error;
  const trouble = (kind: RedisTrouble['code'], text: string, permanent = false): RedisTrouble => ({ code: kind, message: `Redis at ${where}: ${text}`, permanent });
  if (/WRONGPASS|NOAUTH|invalid password|without any password configured/i.test(message)) {
    return trouble('credentials', `it refused user or password (${message}). Check state.url, state.username and state.password.`, true);
  }
  // Redis tells of what a script was refused in words of its own, by version.
  if (/NOPERM|user executing the script|ACL failure/.test(message)) {
    return trouble('permission', `the ACL user may not do what Fairlead needs (${message}). docs/redis.md lists it.`, true);
  }
  if (code === 'ERR_SSL_WRONG_VERSION_NUMBER' || /wrong version number|packet length too long/i.test(message)) return noTls(where);
  if (/CERTIFICATE_REQUIRED/.test(code)) {
    return trouble('tls', 'it wants a certificate of the client. Set state.tls.certFile and keyFile.', true);
  }
  if (/CERT|SELF_SIGNED|UNABLE_TO_VERIFY|UNABLE_TO_GET_ISSUER|ERR_TLS|ERR_SSL/.test(code) || /certificate|ssl alert/i.test(message)) {
    return trouble('tls', `TLS failed: ${reason ?? message} (${code === '' ? 'no code' : code}). Check state.tls.caFile, certFile, keyFile and serverName.`, true);
  }
  // Redis before 7 wraps what a script met in words of its own.
  if (/\bREADONLY\b/.test(message)) return trouble('read-only', 'it is a read-only replica. Waiting for a master.');
  if (/\b(OOM|MISCONF)\b/.test(message)) return trouble('out-of-memory', 'it cannot store anything: snapshots are not kept, messages still go through.');
  if (/^CLUSTERDOWN/.test(message)) return trouble('unreachable', `the cluster has nobody for a part of its keys (${message}).`);
  if (isReply(error)) return trouble('other', message);
  if (/^All sentinels are unreachable/.test(message)) {
    // Without a last error they were reached well, and it is the master that cannot be.
    const last = /Last error: (.*)$/.exec(message)?.[1];
    return last === undefined ? undefined : trouble('unreachable', `no sentinel can be asked (${last}).`);
  }
  if (/timed out|timeout|ETIMEDOUT/i.test(message)) return trouble('timeout', `no answer in time (${message}).`);
  if (/ECONNREFUSED|ENOTFOUND|EHOSTUNREACH|ENETUNREACH|EAI_AGAIN/.test(code + message)) return trouble('unreachable', `cannot be reached (${code === '' ? message : code}).`);
  if (/connection is closed|connection close|isn't writeable|max retries|ECONNRESET|EPIPE|startup nodes|slots cache/i.test(message)) return undefined;
  return trouble('other', message);
}

function noTls(where: string): RedisTrouble {
  return { code: 'no-tls', message: `Redis at ${where}: the port does not speak TLS. Use redis:// and no state.tls, or the TLS port.`, permanent: true };
}

/**
 * Finds out whether one side speaks TLS and the other does not: neither says so. A server that waits for TLS closes on plain text
 * without a word, as does a proxy whose server is away; one that waits for plain text waits for the end of a line.
 */
export async function findMismatch(settings: RedisSettings, where: string): Promise<RedisTrouble | undefined> {
  const { host, port, tls } = target(settings);
  const [node = { host, port }] = settings.cluster?.nodes ?? settings.sentinel?.nodes ?? [];
  if (tls !== undefined) return (await speaksPlain(node)) ? noTls(where) : undefined;
  if (!(await speaksTls(node))) return undefined;
  return { code: 'expects-tls', message: `Redis at ${where}: the port expects TLS. Use rediss:// in state.url.`, permanent: true };
}

function speaksPlain(node: NodeAddress): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = openSocket(node, undefined, mismatchMsMax);
    const done = (speaks: boolean): void => {
      socket.destroy();
      resolve(speaks);
    };
    socket.once('connect', () => socket.write('PING\r\n'));
    // `+PONG`, or an error such as `-NOAUTH`; a TLS server answers in bytes that are no text.
    socket.once('data', (data) => done(data[0] === 0x2b || data[0] === 0x2d));
    for (const event of ['error', 'close', 'timeout']) socket.once(event, () => done(false));
  });
}

function speaksTls(node: NodeAddress): Promise<boolean> {
  return new Promise((resolve) => {
    // Nothing is sent over it: whose certificate it is does not matter.
    const socket = openSocket(node, { rejectUnauthorized: false }, mismatchMsMax);
    const done = (speaks: boolean): void => {
      socket.destroy();
      resolve(speaks);
    };
    socket.once('secureConnect', () => done(true));
    // An alert is TLS too, such as that a certificate is wanted of us.
    socket.once('error', ({ code = '' }: Error & { code?: string }) => done(/^ERR_SSL_.*ALERT/.test(code)));
    for (const event of ['close', 'timeout']) socket.once(event, () => done(false));
  });
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

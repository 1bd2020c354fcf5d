import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { getRequestListener } from '@hono/node-server';
import { Hono } from 'hono';
import type { AutoscaleReport } from './autoscale-report.ts';
import { type ChangeReport, changesMax } from './change-report.ts';
import type { ConfigReport } from './config-report.ts';
import { addControls, type Controls, controlPages, isControl, refuseCaller } from './controls.ts';
import type { FleetReport } from './fleet-report.ts';
import { type RecentDecision, recentDecisionsDefault, recentDecisionsMax } from './recent-decisions.ts';

/** One thing that has to be in order before requests may come. */
export interface ReadinessPart {
  readonly name: string;
  readonly ready: boolean;
  /** Why not, or what is there. */
  readonly reason?: string | undefined;
}

/** A source of metrics in Prometheus' text form. */
export interface MetricsSource {
  readonly contentType: string;
  metrics(): Promise<string>;
}

export interface AdminOptions {
  /** `host:port`, IPv6 in brackets; port 0: any free one. */
  readonly address: string;
  /** Asked on each call; ready means all of them. */
  readonly readiness: () => readonly ReadinessPart[];
  readonly registry: MetricsSource;
  readonly fleet: () => FleetReport;
  /** The last decisions, newest first. */
  readonly decisions: (limit: number) => readonly RecentDecision[];
  /** The last changes of endpoints' states, newest first. */
  readonly changes: () => readonly ChangeReport[];
  /** How many servers each pool should have. */
  readonly autoscale: () => readonly AutoscaleReport[];
  /** Which configuration is in force. */
  readonly config: () => ConfigReport;
  /** What operators can change; absent: nothing, as where others than this machine reach the port. */
  readonly controls?: Controls | undefined;
  /** Told what a source threw; the caller gets a bare 500. */
  readonly onError?: ((error: unknown) => void) | undefined;
}

export interface AdminServer {
  /** Where it listens: `host:port`, IPv6 in brackets. */
  readonly address: string;
  readonly port: number;
  /** Stops: no new calls, those under way get a moment. Idempotent. */
  close(): Promise<void>;
}

/** Longest that calls under way may take once the server is closed, in ms. */
const closeGraceMs = 1_000;

const pages = {
  '/healthz': 'whether the process lives',
  '/readyz': 'whether requests may come, by parts',
  '/metrics': 'metrics in Prometheus text form',
  '/api/v1/autoscale': 'servers that each pool should have, and why; /api/v1/autoscale/POOL for one, as autoscalers read it',
  '/api/v1/changes': `the last ${changesMax} changes of endpoints' states and their causes, newest first`,
  '/api/v1/config': 'which configuration is in force, what came of the last reload, and where endpoints come from',
  '/api/v1/decisions': `the last decisions and how they came about, newest first; ?limit=1 to ${recentDecisionsMax}, default ${recentDecisionsDefault}`,
  '/api/v1/fleet': 'pools and endpoints as this router sees them, and their load',
} as const;

/**
 * Serves health, metrics and the fleet's state over HTTP, and takes changes where it is given `controls`. Rejects when the address cannot be bound, with a
 * message that names it and the cure.
 */
export async function startAdmin(options: AdminOptions): Promise<AdminServer> {
  return serveAdmin(createAdminApp(options), options);
}

/** Serves an app at an address. Rejects as {@link startAdmin} does. */
export async function serveAdmin(app: Pick<Hono, 'fetch'>, options: Pick<AdminOptions, 'address' | 'onError'>): Promise<AdminServer> {
  const listener = getRequestListener(app.fetch, { overrideGlobalObjects: false });
  const server = createServer({ requestTimeout: 10_000, headersTimeout: 5_000, maxHeaderSize: 8_192 }, (incoming, outgoing) => {
    void listener(incoming, outgoing);
  });
  await listen(server, options.address);
  // Such as too many open files: calls fail, the router goes on.
  server.on('error', (error) => options.onError?.(error));
  const { address: host, port } = server.address() as AddressInfo;
  let closing: Promise<void> | undefined;
  return {
    address: host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`,
    port,
    close: () => (closing ??= close(server)),
  };
}

/** The admin API as a plain fetch handler. */
export function createAdminApp({ readiness, registry, fleet, decisions, changes, autoscale, config, controls, onError }: Omit<AdminOptions, 'address'>): Hono {
  const app = new Hono();
  app.use(async (context, next) => {
    const { method } = context.req;
    const isChange = isControl(method, context.req.path);
    if (isChange) {
      const reason = controls === undefined ? 'Changes are taken only where listen.admin is an address of loopback.' : refuseCaller(context.req.header('origin'), context.req.header('host'));
      if (reason !== undefined) return context.json({ error: { code: 'forbidden', message: reason } }, 403);
    } else if (method !== 'GET' && method !== 'HEAD') {
      return context.json({ error: { code: 'method_not_allowed', message: 'Read only: send GET or HEAD.' } }, 405, { allow: 'GET, HEAD' });
    }
    await next();
    context.header('cache-control', 'no-store');
    context.header('x-content-type-options', 'nosniff');
    return undefined;
  });
  app.get('/', (context) => context.json({ name: 'fairlead', pages, ...(controls && { changes: controlPages }) }));
  if (controls !== undefined) addControls(app, controls);
  app.get('/healthz', (context) => context.text('ok\n'));
  app.get('/readyz', (context) => {
    const parts = readiness();
    const ready = parts.every((part) => part.ready);
    return context.json({ ready, parts }, ready ? 200 : 503);
  });
  app.get('/metrics', async (context) => context.body(await registry.metrics(), 200, { 'content-type': registry.contentType }));
  app.get('/api/v1/fleet', (context) => context.json(fleet()));
  app.get('/api/v1/config', (context) => context.json(config()));
  app.get('/api/v1/changes', (context) => context.json({ changes: changes() }));
  app.get('/api/v1/autoscale', (context) => context.json({ pools: autoscale() }));
  app.get('/api/v1/autoscale/:pool', (context) => {
    const report = autoscale().find(({ pool }) => pool === context.req.param('pool'));
    return report === undefined
      ? context.json({ error: { code: 'not_found', message: 'There is no such pool; GET /api/v1/autoscale lists them.' } }, 404)
      : context.json(report);
  });
  app.get('/api/v1/decisions', (context) => {
    const limit = context.req.query('limit') ?? String(recentDecisionsDefault);
    if (!/^[1-9]\d{0,2}$/.test(limit) || Number(limit) > recentDecisionsMax) {
      return context.json({ error: { code: 'bad_limit', message: `Expected limit=1 to limit=${recentDecisionsMax}.` } }, 400);
    }
    return context.json({ decisions: decisions(Number(limit)) });
  });
  app.notFound((context) => context.json({ error: { code: 'not_found', message: 'Nothing is here; GET / lists what there is.' } }, 404));
  answerErrors(app, onError);
  return app;
}

/** Tells `onError` what a page threw, and the caller that its log says it. */
export function answerErrors(app: Hono, onError: AdminOptions['onError']): void {
  app.onError((error, context) => {
    onError?.(error);
    return context.json({ error: { code: 'internal_error', message: 'The router failed to answer; its log says why.' } }, 500);
  });
}

function listen(server: Server, address: string): Promise<void> {
  const colon = address.lastIndexOf(':');
  const host = address.slice(0, colon).replace(/^\[|\]$/g, '');
  return new Promise((resolve, reject) => {
    const refuse = (error: NodeJS.ErrnoException): void => {
      reject(new Error(`cannot listen on ${address} (listen.admin): ${causes[error.code ?? ''] ?? error.message}`, { cause: error }));
    };
    server.once('error', refuse);
    server.listen({ host, port: Number(address.slice(colon + 1)) }, () => {
      server.off('error', refuse);
      resolve();
    });
  });
}

const causes: Readonly<Record<string, string>> = {
  EADDRINUSE: 'the port is taken. Stop what holds it, or choose another port.',
  EADDRNOTAVAIL: 'this machine has no such address. Choose one it has, such as 127.0.0.1.',
  EACCES: 'this user may not have the port. Choose one above 1023.',
  ENOTFOUND: 'the host name is not known. Choose an address.',
};

function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    const forced = setTimeout(() => server.closeAllConnections(), closeGraceMs);
    server.close(() => {
      clearTimeout(forced);
      resolve();
    });
    server.closeIdleConnections();
  });
}

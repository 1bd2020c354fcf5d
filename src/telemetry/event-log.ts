import type { EndpointState } from '../core/fleet-snapshot.ts';
import type { EndpointChange } from '../fleet/endpoint-change.ts';
import type { ExchangeEvents, ExchangeTrouble, RouterEvents } from '../router/ports.ts';
import type { ProbeEvents, ProbeFailure, ScrapeFailure } from '../router/probe-events.ts';
import type { ConfigReload, ReloadEvents } from '../router/reload-events.ts';
import type { StreamEvents } from '../router/stream-events.ts';
import type { Logger } from './logger.ts';
import { RateLimited } from './rate-limited.ts';

/** Everything that happens in a router, as one listener. */
export type TelemetryEvents = RouterEvents & StreamEvents & ExchangeEvents & ProbeEvents & ReloadEvents;

/** Listens to what happens and logs what an operator must see. */
export interface EventLog extends TelemetryEvents {
  /** Logs what is pending; to be called on shutdown. */
  flush(): void;
}

/** Least time between two lines on the same matter, in ms. */
const periodMs = 30_000;

const noSignal =
  'No request was ever reported as ended, so the load that decisions are based on is guessed. Cure: have Envoy report to this router, ' +
  'by an access log of type envoy.access_loggers.http_grpc whose grpc_service is the cluster of this router, ' +
  'or by sending it the response phases (response headers and body).';
const noLease =
  'Access-log records arrive, but none names a lease, so the load that decisions are based on is guessed. Cure: list the metadata namespace ' +
  '"fairlead" in metadata_options.receiving_namespaces.untyped of the ext_proc filter.';
const ejectionWithheld =
  'Endpoints fail or are slow and stay in use, because as many of their pool are left out as health.ejectedShareMax allows. Cure: see what the servers have in common ' +
  '(a model that was not loaded, a full disk, too little capacity: /api/v1/changes tells the causes); raise ejectedShareMax only if the others can carry the load.';
const noFirstToken =
  'No first token was ever noticed, so prompts count as waiting until their requests end, and this policy chooses worse than it could. Cure: ' +
  'set allow_mode_override: true on the ext_proc filter, or send it response bodies (STREAMED or FULL_DUPLEX_STREAMED); or set ' +
  'observe.firstToken: false on the pool to live with it.';
const foreignLease =
  'Completion reports name requests of another router, and there is no way to hand them on; that router counts these requests until they expire. ' +
  'Either it was restarted, or several routers sit behind one Envoy cluster while each keeps its state in memory. Cure for the latter: configure shared state.';
const leaseExpired =
  'Requests were counted as running until they expired: nothing reported their end. Envoy drops access-log records when the log stream breaks; ' +
  'if this goes on, see whether its access log still reaches this router.';
const decisionUnread =
  'Requests were released although nothing told of their end: their ext_proc streams ended early, so Envoy seems to have given up waiting for the decision. Cure: if ext_proc.message_timeouts ' +
  'of Envoy rises, give this router more CPU, or add routers. If it does not, filters with and without allow_mode_override share the cluster of this router, and their requests are released ' +
  'while they run: give all of them the same setting.';
const exchangeTrouble = 'What carries state between routers cannot be used as it should. Requests go on, on what is known of the other routers until it ages out.';
const exchangeRecovered = 'State goes between routers again.';
const exchangeDropped =
  'Messages to other routers were not sent, or nobody knows whether they arrived: exchange_trouble and /readyz tell why. The next snapshots repair what they said of load.';
const pushingStopped =
  'More happens than may be pushed to other routers as it happens: they hear of it by snapshots alone, and choices are a little worse. Cure: with Redis, raise state.pushEventsPerSecondMax if it has room.';
const pushingResumed = 'What happens is pushed to other routers as it happens again.';
const scrapeFailed =
  'Metrics of model servers cannot be read; once they are stale, endpoints are rated without them. See whether pools[].metrics names the right kind, path and port.';
const probeFailed =
  'Model servers fail their probes; those that go on doing so get no requests. See what they say for themselves, and whether pools[].health.probe names the right path, port and model.';
const configRefused = 'The configuration that was read again cannot be used; the one before it stays in force, whole.';
const discoveryFailed =
  'A source of endpoints cannot be followed; those that it named last stay. Cure: mend the file, or see whether this router can resolve the name; it is taken in again by itself.';
const internalError = 'An internal error ended a stream or a listener; the request was refused if it still could be. This is a bug: please report it.';

/** Logs loudly what makes decisions worse or points at a bug, each matter at most once per period. Ordinary events are for the metrics. */
export function createEventLog(logger: Pick<Logger, 'info' | 'warn' | 'error'>): EventLog {
  let records = 0;
  let recordsWithLease = 0;
  const foreign = new RateLimited<string>(periodMs, (count, owner) => {
    logger.warn({ event: 'foreign_lease', count, owner }, foreignLease);
  });
  const expired = new RateLimited<{ pool: string; address: string }>(periodMs, (count, { pool, address }) => {
    logger.warn({ event: 'lease_expired', count, pool, endpoint: address }, leaseExpired);
  });
  const unread = new RateLimited<{ pool: string; address: string }>(periodMs, (count, { pool, address }) => {
    logger.warn({ event: 'decision_unread', count, pool, endpoint: address }, decisionUnread);
  });
  const withheld = new RateLimited<{ pool: string; endpoint: string; cause: string }>(periodMs, (count, latest) => {
    logger.warn({ event: 'ejection_withheld', count, ...latest }, ejectionWithheld);
  });
  const failures = new RateLimited<unknown>(periodMs, (count, error) => {
    logger.error({ event: 'internal_error', count, err: error }, internalError);
  });
  const troubles = new RateLimited<ExchangeTrouble>(periodMs, (count, { code, message, permanent }) => {
    logger[permanent ? 'error' : 'warn']({ event: 'exchange_trouble', count, code, permanent, cause: message }, exchangeTrouble);
  });
  const recoveries = new RateLimited<undefined>(periodMs, (count) => {
    logger.info({ event: 'exchange_recovered', count }, exchangeRecovered);
  });
  const dropped = new RateLimited<undefined>(periodMs, (count) => {
    logger.warn({ event: 'exchange_dropped', count }, exchangeDropped);
  });
  const pushing = new RateLimited<boolean>(periodMs, (count, isPushing) => {
    if (isPushing) logger.info({ event: 'exchange_pushing', count }, pushingResumed);
    else logger.warn({ event: 'exchange_not_pushing', count }, pushingStopped);
  });
  const scrapes = new RateLimited<{ pool: string; endpoint: string; cause: ScrapeFailure; detail: string }>(periodMs, (count, latest) => {
    logger.warn({ event: 'scrape_failed', count, ...latest }, scrapeFailed);
  });
  const probes = new RateLimited<{ pool: string; endpoint: string; cause: ProbeFailure; detail: string }>(periodMs, (count, latest) => {
    logger.warn({ event: 'probe_failed', count, ...latest }, probeFailed);
  });
  const nothing = (): void => {};
  /** Sources that fail now, by pool and kind, with what they were last logged for. */
  const failing = new Map<string, { readonly message: string; readonly atMs: number }>();
  return {
    decided: nothing,
    refused: nothing,
    firstToken: nothing,
    released: (pool, address, { ending, signal }) => {
      if (ending === 'expired') expired.note({ pool, address });
      else if (signal === 'timer') unread.note({ pool, address });
    },
    foreignReport: (owner, forwarded) => {
      // The owner was read from an access-log record: no more of it is believed than a router's id can be.
      if (!forwarded) foreign.note(/^[\w-]{1,64}$/.test(owner) ? owner : '?');
    },
    unknownLease: nothing,
    noCompletionSignal: (requests) => {
      const fields = { event: 'no_completion_signal', requests, accessLogRecords: records };
      logger.error(fields, records > 0 && recordsWithLease === 0 ? noLease : noSignal);
    },
    noFirstToken: (pool, responses) => {
      logger.warn({ event: 'no_first_token', pool, responses }, noFirstToken);
    },
    endpointChanged: (change) => logChange(logger, change),
    ejectionWithheld: (pool, endpoint, cause) => withheld.note({ pool, endpoint, cause }),
    streamOpened: nothing,
    streamClosed: nothing,
    message: nothing,
    answered: nothing,
    bodyUnusable: nothing,
    sessionCookie: nothing,
    failed: (error) => failures.note(error),
    accessLogRecords: (count, withoutLease) => {
      records += count;
      recordsWithLease += count - withoutLease;
    },
    exchangeTrouble: (trouble) => troubles.note(trouble),
    exchangeRecovered: () => recoveries.note(undefined),
    exchangeDropped: () => dropped.note(undefined),
    pushingChanged: (isPushing) => pushing.note(isPushing),
    metricsScraped: nothing,
    scrapeFailed: (pool, endpoint, cause, detail) => scrapes.note({ pool, endpoint, cause, detail }),
    probePassed: nothing,
    probeFailed: (pool, endpoint, cause, detail) => probes.note({ pool, endpoint, cause, detail }),
    configReloaded: ({ outcome, cause, file, version, problems }: ConfigReload) => {
      if (outcome === 'applied') logger.info({ event: 'config_reloaded', cause, file, version }, 'The configuration was replaced.');
      // Each with its path, so that a search for the path finds it.
      for (const { path, message } of outcome === 'refused' ? problems : []) {
        logger.error({ event: 'config_refused', cause, file, path: path === '' ? '(file)' : path, problem: message }, configRefused);
      }
    },
    discovered: (pool, source, endpoints) => {
      if (failing.delete(`${pool} ${source}`)) logger.info({ event: 'discovery_recovered', pool, source, endpoints }, 'A source of endpoints is followed again.');
    },
    discoveryFailed: (pool, source, { source: where, causes }) => {
      const message = causes.map(({ path, message: cause }) => `${path}: ${cause}`).join('; ');
      const before = failing.get(`${pool} ${source}`);
      // A name that cannot be looked up is asked for again and again; a file only fails when it was changed.
      if (source === 'dns' && before?.message === message && Date.now() - before.atMs < periodMs) return;
      failing.set(`${pool} ${source}`, { message, atMs: Date.now() });
      for (const { path, message: problem } of causes) {
        logger.error({ event: 'discovery_failed', pool, source, from: where, path: path === '' ? '(whole)' : path, problem }, discoveryFailed);
      }
    },
    flush: () => {
      for (const limited of [foreign, expired, unread, withheld, failures, troubles, recoveries, dropped, pushing, scrapes, probes]) limited.flush();
    },
  };
}

/** States in which an endpoint is missed. */
const unwell: ReadonlySet<EndpointState | undefined> = new Set<EndpointState>(['slow', 'ejected', 'not-ready']);

/** Each change is a line of its own: an endpoint changes no faster than its back-off allows, and every line is needed to see what happened. */
function logChange(logger: Pick<Logger, 'info' | 'warn'>, { pool, address, from, to, cause, detail, by, atMs, untilMs }: EndpointChange): void {
  const retryInMs = untilMs === undefined ? undefined : Math.max(0, Math.round(untilMs - atMs));
  const fields = { event: 'endpoint_changed', pool, endpoint: address, from: from ?? 'new', to: to ?? 'gone', cause, detail, by, retryInMs };
  logger[unwell.has(to) ? 'warn' : 'info'](fields, `endpoint ${address} of pool ${pool}: ${from ?? 'new'} → ${to ?? 'gone'} (${cause}${detail === undefined ? '' : `: ${detail}`})`);
}

/**
 * One listener that tells all the given ones, in their order. What one throws reaches neither the caller nor keeps the
 * others from hearing; the others are told of it by `failed`.
 */
export function combineEvents(...listeners: readonly Partial<TelemetryEvents>[]): TelemetryEvents {
  const tellOthers = (broken: Partial<TelemetryEvents>, error: unknown): void => {
    for (const listener of listeners) {
      if (listener === broken) continue;
      try {
        listener.failed?.(error);
      } catch {
        // Nobody is left to hear of it, and the request matters more.
      }
    }
  };
  // A request brings some ten events: who hears of which is found out once.
  const told = Object.keys(eventNames).map((name) => {
    const hearers = listeners.flatMap((listener) => {
      const hear = listener[name as keyof TelemetryEvents] as Hear | undefined;
      return hear === undefined ? [] : [{ listener, hear }];
    });
    const tell: Hear = (...args) => {
      for (const { listener, hear } of hearers) {
        try {
          hear.apply(listener, args);
        } catch (error) {
          tellOthers(listener, error);
        }
      }
    };
    return [name, tell];
  });
  return Object.fromEntries(told) as TelemetryEvents;
}

/** Any event's listener. */
type Hear = (this: unknown, ...args: unknown[]) => void;

const eventNames: Readonly<Record<keyof TelemetryEvents, true>> = {
  decided: true,
  refused: true,
  firstToken: true,
  released: true,
  foreignReport: true,
  unknownLease: true,
  noCompletionSignal: true,
  ejectionWithheld: true,
  endpointChanged: true,
  noFirstToken: true,
  streamOpened: true,
  streamClosed: true,
  message: true,
  answered: true,
  bodyUnusable: true,
  sessionCookie: true,
  failed: true,
  accessLogRecords: true,
  exchangeTrouble: true,
  exchangeRecovered: true,
  exchangeDropped: true,
  pushingChanged: true,
  metricsScraped: true,
  scrapeFailed: true,
  probePassed: true,
  probeFailed: true,
  configReloaded: true,
  discovered: true,
  discoveryFailed: true,
};

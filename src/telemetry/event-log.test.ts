import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { EndpointChange } from '../fleet/endpoint-change.ts';
import type { Routed } from '../router/routed.ts';
import { combineEvents, createEventLog, type EventLog, type TelemetryEvents } from './event-log.ts';
import { createLogger } from './logger.ts';

interface Line {
  readonly level: string;
  readonly event: string;
  readonly msg: string;
  readonly count?: number;
  readonly [field: string]: unknown;
}

let lines: Line[];
let log: EventLog;

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  lines = [];
  log = createEventLog(createLogger({ level: 'info', destination: { write: (line) => lines.push(JSON.parse(line) as Line) } }));
});
afterEach(() => {
  vi.useRealTimers();
});

const expired = { ending: 'expired', signal: 'timer' } as const;
const ejection: EndpointChange = {
  pool: 'chat',
  address: '10.0.0.1:80',
  from: 'ready',
  to: 'ejected',
  cause: 'failures',
  detail: '3 in a row: 503',
  by: undefined,
  atMs: 5_000,
  untilMs: 6_000,
};
const finished = { ending: 'finished', signal: 'access-log', status: 200 } as const;

describe('createEventLog', () => {
  it('tells loudly that no end is ever reported, and how to cure it', () => {
    log.noCompletionSignal(50);
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatchObject({ level: 'error', event: 'no_completion_signal', requests: 50, accessLogRecords: 0 });
    expect(lines[0]?.msg).toContain('envoy.access_loggers.http_grpc');
    expect(lines[0]?.msg).toContain('response phases');
  });

  it('tells that first tokens are not noticed, and how to cure it', () => {
    log.noFirstToken('chat', 50);
    expect(lines[0]).toMatchObject({ level: 'warn', event: 'no_first_token', pool: 'chat', responses: 50 });
    expect(lines[0]?.msg).toContain('allow_mode_override');
  });

  it('names the other cause where records come without leases', () => {
    log.accessLogRecords(60, 60);
    log.noCompletionSignal(50);
    expect(lines[0]).toMatchObject({ level: 'error', event: 'no_completion_signal', accessLogRecords: 60 });
    expect(lines[0]?.msg).toContain('receiving_namespaces');
  });

  it('does not blame the namespace when some records named a lease', () => {
    log.accessLogRecords(60, 59);
    log.noCompletionSignal(50);
    expect(lines[0]?.msg).not.toContain('receiving_namespaces');
  });

  it('warns of foreign leases at once, then sums up every 30 s, then is quiet', () => {
    log.foreignReport('b', false);
    expect(lines).toMatchObject([{ level: 'warn', event: 'foreign_lease', count: 1, owner: 'b' }]);
    expect(lines[0]?.msg).toMatch(/several routers sit behind one Envoy cluster.*shared state/);
    for (let i = 0; i < 1_000; i += 1) log.foreignReport(`c${i}`, false);
    vi.advanceTimersByTime(29_999);
    expect(lines).toHaveLength(1);
    vi.advanceTimersByTime(1);
    expect(lines.slice(1)).toMatchObject([{ event: 'foreign_lease', count: 1_000, owner: 'c999' }]);
    log.foreignReport('d', false);
    expect(lines).toHaveLength(2);
    vi.advanceTimersByTime(30_000);
    expect(lines.slice(2)).toMatchObject([{ count: 1, owner: 'd' }]);
    vi.advanceTimersByTime(300_000);
    expect(lines).toHaveLength(3);
    expect(vi.getTimerCount()).toBe(0);
    log.foreignReport('e', false);
    expect(lines).toHaveLength(4);
  });

  it('is silent about foreign reports that were handed on', () => {
    log.foreignReport('b', true);
    expect(lines).toEqual([]);
  });

  it.each(['', 'a b', 'x'.repeat(65), 'evil\n{"level":"fatal"}'])('does not repeat an owner that no router can have: %j', (owner) => {
    log.foreignReport(owner, false);
    expect(lines).toMatchObject([{ owner: '?' }]);
  });

  it('warns of expired leases in the same way, and of no other ending', () => {
    log.released('chat', '10.0.0.1:80', finished, 5);
    expect(lines).toEqual([]);
    for (let i = 0; i < 10; i += 1) log.released('chat', '10.0.0.1:80', expired, 30_000);
    expect(lines).toMatchObject([{ level: 'warn', event: 'lease_expired', count: 1, pool: 'chat', endpoint: '10.0.0.1:80' }]);
    vi.advanceTimersByTime(30_000);
    expect(lines.slice(1)).toMatchObject([{ event: 'lease_expired', count: 9 }]);
  });

  it('warns of decisions that Envoy seems never to have read, and of no others that came to nothing', () => {
    log.released('chat', '10.0.0.1:80', { ending: 'not-proxied', signal: 'ext-proc' }, 5);
    expect(lines).toEqual([]);
    for (let i = 0; i < 10; i += 1) log.released('chat', '10.0.0.1:80', { ending: 'not-proxied', signal: 'timer' }, 5_100);
    expect(lines).toMatchObject([{ level: 'warn', event: 'decision_unread', count: 1, pool: 'chat', endpoint: '10.0.0.1:80' }]);
    expect(lines[0]?.msg).toContain('Cure: ');
    log.flush();
    expect(lines.slice(1)).toMatchObject([{ event: 'decision_unread', count: 9 }]);
  });

  it('logs internal errors with their frames, at most once per period, and never what a parser quotes', () => {
    for (let i = 0; i < 5; i += 1) log.failed(new SyntaxError('Unexpected token, "my prompt" is not valid JSON'));
    log.failed(new RangeError('latest'));
    expect(lines).toMatchObject([{ level: 'error', event: 'internal_error', count: 1, err: { type: 'SyntaxError' } }]);
    expect(JSON.stringify(lines)).not.toContain('my prompt');
    vi.advanceTimersByTime(30_000);
    expect(lines.slice(1)).toMatchObject([{ event: 'internal_error', count: 5, err: { type: 'RangeError', message: 'latest' } }]);
  });

  it('survives whatever is thrown', () => {
    log.failed('a prompt');
    expect(lines).toMatchObject([{ event: 'internal_error', err: { type: 'string' } }]);
    expect(JSON.stringify(lines)).not.toContain('a prompt');
  });

  it.each([
    [false, 'warn'],
    [true, 'error'],
  ])('logs trouble with the exchange, with its cause; permanent: %s', (permanent, level) => {
    log.exchangeTrouble({ code: 'unreachable', message: 'Nobody answers at 127.0.0.1:6379.', permanent });
    expect(lines).toMatchObject([{ level, event: 'exchange_trouble', code: 'unreachable', permanent, cause: 'Nobody answers at 127.0.0.1:6379.' }]);
  });

  it('logs an exchange that comes and goes once per period each way', () => {
    for (let i = 0; i < 20; i += 1) {
      log.exchangeTrouble({ code: 'unreachable', message: 'Nobody answers.', permanent: false });
      log.exchangeRecovered();
      log.exchangeDropped();
      log.pushingChanged(i % 2 === 1);
    }
    expect(lines.map(({ event }) => event)).toEqual(['exchange_trouble', 'exchange_recovered', 'exchange_dropped', 'exchange_not_pushing']);
    vi.advanceTimersByTime(30_000);
    expect(lines.slice(4)).toMatchObject([
      { level: 'warn', event: 'exchange_trouble', count: 19 },
      { level: 'info', event: 'exchange_recovered', count: 19 },
      { level: 'warn', event: 'exchange_dropped', count: 19 },
      { level: 'info', event: 'exchange_pushing', count: 19 },
    ]);
  });

  it('warns of metrics that cannot be read once per period, with the latest cause, and is silent about those that can', () => {
    log.metricsScraped('chat', '10.0.0.1:80');
    expect(lines).toEqual([]);
    log.scrapeFailed('chat', '10.0.0.1:80', 'unreachable', 'connect ECONNREFUSED 10.0.0.1:80');
    expect(lines).toMatchObject([
      { level: 'warn', event: 'scrape_failed', count: 1, pool: 'chat', endpoint: '10.0.0.1:80', cause: 'unreachable', detail: 'connect ECONNREFUSED 10.0.0.1:80' },
    ]);
    for (let i = 0; i < 60; i += 1) log.scrapeFailed('chat', '10.0.0.2:80', 'timeout', '/metrics took longer than 1000 ms');
    expect(lines).toHaveLength(1);
    vi.advanceTimersByTime(30_000);
    expect(lines.slice(1)).toMatchObject([{ event: 'scrape_failed', count: 60, endpoint: '10.0.0.2:80', cause: 'timeout' }]);
  });

  it('names each problem of a configuration that is refused, with its path, every time', () => {
    const problems = [
      { path: '', message: 'cannot be read' },
      { path: 'pools[0].name', message: 'expected a name' },
    ];
    for (let i = 0; i < 2; i += 1) log.configReloaded({ outcome: 'refused', cause: 'file', file: 'fairlead.yaml', version: undefined, problems });
    const refused = { level: 'error', event: 'config_refused', cause: 'file', file: 'fairlead.yaml' };
    const both = [{ ...refused, path: '(file)', problem: 'cannot be read' }, { ...refused, path: 'pools[0].name', problem: 'expected a name' }];
    expect(lines).toMatchObject([...both, ...both]);
    log.configReloaded({ outcome: 'unchanged', cause: 'signal', file: 'fairlead.yaml', version: 'a', problems: [] });
    expect(lines).toHaveLength(4);
    log.configReloaded({ outcome: 'applied', cause: 'signal', file: 'fairlead.yaml', version: 'b', problems: [] });
    expect(lines[4]).toMatchObject({ level: 'info', event: 'config_reloaded', version: 'b' });
  });

  it('tells of a source of endpoints that fails: a file each time, a name once per cause, and that it is followed again', () => {
    const gone = { source: 'endpoints.yaml', causes: [{ path: '[1].address', message: 'expected ip:port' }] };
    log.discovered('chat', 'file', 2);
    expect(lines).toEqual([]);
    log.discoveryFailed('chat', 'file', gone);
    log.discoveryFailed('chat', 'file', gone);
    expect(lines).toMatchObject(Array.from({ length: 2 }, () => ({ level: 'error', event: 'discovery_failed', pool: 'chat', source: 'file', from: 'endpoints.yaml', path: '[1].address', problem: 'expected ip:port' })));
    const unknown = { source: 'chat.example A', causes: [{ path: '', message: 'no such name' }] };
    for (let i = 0; i < 5; i += 1) log.discoveryFailed('chat', 'dns', unknown);
    expect(lines).toHaveLength(3);
    log.discoveryFailed('chat', 'dns', { ...unknown, causes: [{ path: '', message: 'no answer' }] });
    expect(lines[3]).toMatchObject({ path: '(whole)', problem: 'no answer' });
    log.discovered('chat', 'dns', 4);
    log.discovered('chat', 'dns', 4);
    expect(lines.slice(4)).toMatchObject([{ level: 'info', event: 'discovery_recovered', pool: 'chat', source: 'dns', endpoints: 4 }]);
  });

  it('warns of failed probes once per period, with the latest cause, and is silent about passed ones', () => {
    log.probePassed('chat', '10.0.0.1:80', 3);
    expect(lines).toEqual([]);
    log.probeFailed('chat', '10.0.0.1:80', 'unavailable', '/health answered 503');
    expect(lines).toMatchObject([
      { level: 'warn', event: 'probe_failed', count: 1, pool: 'chat', endpoint: '10.0.0.1:80', cause: 'unavailable', detail: '/health answered 503' },
    ]);
    for (let i = 0; i < 60; i += 1) log.probeFailed('chat', '10.0.0.2:80', 'timeout', '/health took longer than 500 ms');
    expect(lines).toHaveLength(1);
    log.flush();
    expect(lines.slice(1)).toMatchObject([{ event: 'probe_failed', count: 60, endpoint: '10.0.0.2:80', cause: 'timeout' }]);
  });

  it('warns once per period of endpoints that should be left out and are not, with the latest cause and the cure', () => {
    for (const endpoint of ['10.0.0.1:80', '10.0.0.2:80', '10.0.0.2:80']) log.ejectionWithheld('chat', endpoint, 'failures: last: status 500');
    expect(lines).toMatchObject([{ level: 'warn', event: 'ejection_withheld', count: 1, pool: 'chat', endpoint: '10.0.0.1:80', cause: 'failures: last: status 500' }]);
    expect(lines[0]?.msg).toMatch(/ejectedShareMax allows\. Cure: /);
    log.flush();
    expect(lines[1]).toMatchObject({ event: 'ejection_withheld', count: 2, endpoint: '10.0.0.2:80' });
  });

  it('tells of each change of an endpoint, in a line of its own, and warns of those for the worse', () => {
    log.endpointChanged(ejection);
    log.endpointChanged({ ...ejection, from: 'ejected', to: 'half-open', cause: 'back-off-over', detail: undefined, by: 'router-b', untilMs: undefined });
    log.endpointChanged({ ...ejection, from: undefined, to: 'joining', cause: 'discovered', detail: undefined, untilMs: undefined });
    log.endpointChanged({ ...ejection, from: 'draining', to: undefined, cause: 'removed', detail: undefined, untilMs: undefined });
    const about = { event: 'endpoint_changed', pool: 'chat', endpoint: '10.0.0.1:80' };
    expect(lines).toMatchObject([
      { level: 'warn', ...about, from: 'ready', to: 'ejected', cause: 'failures', detail: '3 in a row: 503', retryInMs: 1_000 },
      { level: 'info', ...about, from: 'ejected', to: 'half-open', cause: 'back-off-over', by: 'router-b' },
      { level: 'info', ...about, from: 'new', to: 'joining', cause: 'discovered' },
      { level: 'info', ...about, from: 'draining', to: 'gone', cause: 'removed' },
    ]);
    expect(lines.slice(0, 2).map(({ msg }) => msg)).toEqual([
      'endpoint 10.0.0.1:80 of pool chat: ready → ejected (failures: 3 in a row: 503)',
      'endpoint 10.0.0.1:80 of pool chat: ejected → half-open (back-off-over)',
    ]);
  });

  it('one matter does not use up the line of another', () => {
    log.foreignReport('b', false);
    log.released('chat', 'a', expired, 1);
    log.failed(new Error('x'));
    expect(lines.map(({ event }) => event)).toEqual(['foreign_lease', 'lease_expired', 'internal_error']);
  });

  it('tells what is pending on flush, once', () => {
    log.foreignReport('b', false);
    log.foreignReport('b', false);
    log.flush();
    expect(lines).toMatchObject([{ count: 1 }, { count: 1 }]);
    log.flush();
    vi.advanceTimersByTime(60_000);
    expect(lines).toHaveLength(2);
    expect(vi.getTimerCount()).toBe(0);
  });
});

/** Every event with arguments to tell it by. */
const calls: { readonly [K in keyof TelemetryEvents]: Parameters<TelemetryEvents[K]> } = {
  decided: [{ lease: 'a.1' } as Routed],
  refused: ['overloaded', 'chat'],
  ejectionWithheld: ['chat', '10.0.0.1:80', 'failures: last: status 500'],
  endpointChanged: [ejection],
  firstToken: ['chat', '10.0.0.1:80', 12],
  released: ['chat', '10.0.0.1:80', finished, 34],
  foreignReport: ['b', false],
  unknownLease: [],
  noCompletionSignal: [50],
  noFirstToken: ['chat', 50],
  streamOpened: [],
  streamClosed: ['completed'],
  message: ['request_headers'],
  answered: ['headers', 0.4],
  bodyUnusable: ['malformed'],
  sessionCookie: ['invalid'],
  failed: [new Error('x')],
  accessLogRecords: [3, 1],
  exchangeTrouble: [{ code: 'unreachable', message: 'Nobody answers.', permanent: false }],
  exchangeRecovered: [],
  exchangeDropped: [],
  pushingChanged: [false],
  metricsScraped: ['chat', '10.0.0.1:80'],
  scrapeFailed: ['chat', '10.0.0.1:80', 'timeout', '/metrics took longer than 1000 ms'],
  configReloaded: [{ outcome: 'applied', cause: 'signal', file: 'fairlead.yaml', version: 'v', problems: [] }],
  discovered: ['chat', 'file', 2],
  discoveryFailed: ['chat', 'file', { source: 'endpoints.yaml', causes: [] }],
  probePassed: ['chat', '10.0.0.1:80', 3],
  probeFailed: ['chat', '10.0.0.1:80', 'unavailable', '/health answered 503'],
};
const names = Object.keys(calls) as (keyof TelemetryEvents)[];

/** A listener that notes every call, and throws afterwards if told to. */
function recorder(error?: Error): { events: TelemetryEvents; heard: [string, ...unknown[]][] } {
  const heard: [string, ...unknown[]][] = [];
  const events = Object.fromEntries(
    names.map((name) => [
      name,
      (...args: unknown[]) => {
        heard.push([name, ...args]);
        if (error !== undefined) throw error;
      },
    ]),
  ) as unknown as TelemetryEvents;
  return { events, heard };
}

const fire = (events: TelemetryEvents, name: keyof TelemetryEvents): void => {
  (events[name] as (...args: unknown[]) => void)(...calls[name]);
};

describe('combineEvents', () => {
  it.each(names)('%s reaches every listener with its arguments', (name) => {
    const a = recorder();
    const b = recorder();
    fire(combineEvents(a.events, b.events), name);
    expect(a.heard).toEqual([[name, ...calls[name]]]);
    expect(b.heard).toEqual(a.heard);
  });

  it.each(names)('a listener that throws on %s stops neither the others nor the caller', (name) => {
    const bug = new Error('bug');
    const before = recorder();
    const broken = recorder(bug);
    const after = recorder();
    const events = combineEvents(before.events, broken.events, after.events);
    expect(() => {
      fire(events, name);
    }).not.toThrow();
    expect(before.heard).toEqual([
      [name, ...calls[name]],
      ['failed', bug],
    ]);
    expect(after.heard).toContainEqual([name, ...calls[name]]);
    expect(after.heard).toContainEqual(['failed', bug]);
    expect(broken.heard).toEqual([[name, ...calls[name]]]);
  });

  it('does not run in circles when every listener throws', () => {
    const a = recorder(new Error('a'));
    const b = recorder(new Error('b'));
    const events = combineEvents(a.events, b.events);
    for (const name of names) fire(events, name);
    expect(a.heard.length + b.heard.length).toBe(4 * names.length);
  });

  it('takes listeners that care for some events only', () => {
    const part = recorder();
    const events = combineEvents({}, { refused: (code, pool) => part.events.refused(code, pool) });
    for (const name of names) fire(events, name);
    expect(part.heard).toEqual([['refused', 'overloaded', 'chat']]);
  });

  it('without listeners, hears nothing', () => {
    const events = combineEvents();
    for (const name of names) fire(events, name);
  });
});

import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { chatPool, compiled, seededDraw } from '../../test/integration/router-under-test.ts';
import { type ModelledRouter, ModelledNetwork, type NetworkOptions } from '../../test/modelled-network.ts';
import { noLoad } from '../fleet/load.ts';
import { type FleetEndpoint, FleetView } from '../fleet/fleet-view.ts';
import { Placements } from '../fleet/placements.ts';
import type { HealthRow } from '../fleet/health-row.ts';
import { type LoadEvent, SharedState } from '../fleet/shared-state.ts';
import { encodeEvents, encodeReports, encodeSnapshot, type ForwardedCompletion, parsePoolMessage, parseReports } from './exchange-messages.ts';
import type { Completion } from './ports.ts';
import { type ExchangeTransport, SharedExchange, type SharedExchangeOptions, type StoredPlacement } from './shared-exchange.ts';

const one = '10.0.0.1:80';
const two = '10.0.0.2:80';
const keyId = '0123456789abcdef0123456789abcdef';
const finished: Completion = { ending: 'finished', signal: 'access-log' };

const reportsIn = (message: string): readonly ForwardedCompletion[] => parseReports(message)?.reports ?? [];

/** One exchange whose transport notes everything and delivers nothing. */
interface Bench {
  readonly exchange: SharedExchange;
  readonly fleet: FleetView;
  readonly placements: Placements;
  nowMs: number;
  readonly published: { pool: string; message: string }[];
  readonly snapshots: { pool: string; message: string }[];
  readonly stored: { pool: string; placements: readonly StoredPlacement[] }[];
  readonly forwards: { owner: string; message: string }[];
  readonly received: string[];
  /** What becomes of forwards. */
  forwardFails: boolean;
  /** What becomes of what is to be kept. */
  storeFails: boolean;
  wakes: number;
  /** The owners say that they have what was forwarded last. */
  acknowledge(): void;
  /** Our own words come back. */
  echo(): void;
  /** Another router says how it stands. */
  hear(router: string, sequence: number, requests?: number, options?: { pool?: string; pushes?: boolean }): void;
  /** Passes time in periods, hearing nothing but, where wanted, ourselves and routers that are alive. */
  wait(ms: number, options?: { echo?: boolean; alive?: readonly string[] }): void;
  requests(pool?: string): number;
}

function bench(options: Partial<SharedExchangeOptions> = {}): Bench {
  const endpoints = [one, two].map((address) => ({ address, weight: 1, labels: {}, requestsMax: 5 }));
  const fleet = new FleetView([
    { name: 'chat', endpoints },
    { name: 'batch', endpoints },
  ]);
  const placements = new Placements();
  const transport: ExchangeTransport = {
    publish: (pool, message) => made.published.push({ pool, message }),
    publishSnapshot: (pool, message) => made.snapshots.push({ pool, message }),
    storePlacements: (pool, kept, failed) => {
      made.stored.push({ pool, placements: kept });
      if (made.storeFails) failed();
    },
    forward: (owner, message, failed) => {
      made.forwards.push({ owner, message });
      if (made.forwardFails) failed();
    },
    wake: () => (made.wakes += 1),
  };
  const made: Bench = {
    exchange: new SharedExchange({
      routerId: 'me',
      clock: { nowMs: () => made.nowMs },
      transport,
      state: new SharedState(fleet, placements),
      snapshotMs: 100,
      pushEventsPerSecondMax: 1_000,
      onForwarded: ({ lease }) => made.received.push(lease),
      ...options,
    }),
    fleet,
    placements,
    nowMs: 0,
    published: [],
    snapshots: [],
    stored: [],
    forwards: [],
    received: [],
    forwardFails: false,
    storeFails: false,
    wakes: 0,
    acknowledge: () => {
      for (const { owner, message } of made.forwards.splice(0)) {
        made.exchange.receiveReports(encodeReports({ router: owner, number: 0, reports: [], received: [parseReports(message)!.number] }));
      }
    },
    echo: () => made.exchange.receive('chat', made.snapshots.at(-1)?.message ?? encodeSnapshot('me', 1, new Map(), true)),
    hear: (router, sequence, requests = 0, { pool = 'chat', pushes = true } = {}) => {
      const loads = new Map(requests === 0 ? [] : [[one, { requests, promptTokens: 100 * requests, requestsWaiting: 0, uncachedTokensWaiting: 0 }]]);
      made.exchange.receive(pool, encodeSnapshot(router, sequence, loads, pushes));
    },
    wait: (ms, { echo = true, alive = [] } = {}) => {
      for (let passed = 0; passed < ms; passed += 100) {
        made.nowMs += 100;
        made.exchange.tick();
        if (echo) made.echo();
        for (const router of alive) made.hear(router, 1_000 + made.nowMs);
      }
    },
    requests: (pool = 'chat') => fleet.pool(pool)!.endpoint(one)!.requests,
  };
  return made;
}

const dispatch = (changes: Partial<Extract<LoadEvent, { kind: 'dispatch' }>> = {}): LoadEvent => ({ kind: 'dispatch', pool: 'chat', address: one, promptTokens: 10, uncachedTokens: 10, placement: undefined, cached: undefined, ...changes });
const moved = (away: boolean, id = keyId): LoadEvent => dispatch({ placement: { keyId: id, away } });

let on: Bench;
beforeEach(() => {
  on = bench();
});

describe('what a router tells', () => {
  it('what it read of model servers goes out with the next snapshot, once, and is heard with its age', () => {
    const told = { requestsRunning: 3, requestsQueued: 4, kvUsage: 0.5, kvTokensMax: 1_000, adapters: new Set(['sql']), adaptersMax: 2 };
    const reader = new SharedState(on.fleet, on.placements);
    reader.shareMetrics('chat');
    const sender = bench({ state: reader });
    sender.nowMs = 70_000;
    on.fleet.pool('chat')!.endpoint(two)!.metrics = { ...told, scrapedMs: 69_960 };
    reader.noteMetrics('chat', two);
    sender.exchange.tick();
    sender.exchange.tick();
    const [first, , second] = sender.snapshots.map(({ message }) => parsePoolMessage('chat', message));
    expect(first).toMatchObject({ metrics: new Map([[two, { ...told, ageMs: 40 }]]) });
    expect(second).not.toHaveProperty('metrics');

    const fleet = new FleetView([{ name: 'chat', endpoints: [one, two].map((address) => ({ address, weight: 1, labels: {}, requestsMax: 5 })) }]);
    const state = new SharedState(fleet, new Placements());
    state.shareMetrics('chat');
    const hearer = bench({ routerId: 'you', state });
    hearer.nowMs = 500;
    hearer.exchange.receive('chat', sender.snapshots[0]!.message);
    expect(fleet.pool('chat')!.endpoint(two)!.metrics).toEqual({ ...told, scrapedMs: 460 });
    expect(fleet.pool('chat')!.endpoint(one)!.metrics).toBeUndefined();
  });

  it('load is pushed while there is somebody to hear it; alone, only where sessions are and what is known of health', () => {
    const row: HealthRow = { address: one, aspect: 'breaker', version: 1, by: 'me', value: 'open', ms: 900, strikes: 1, cause: 'failures', detail: undefined };
    const events: LoadEvent[] = [
      dispatch(),
      { kind: 'first-token', pool: 'chat', address: one, uncachedTokens: 10 },
      { kind: 'done', pool: 'chat', address: one, promptTokens: 10, uncachedTokens: 10, waiting: false },
    ];
    const pushed = (): string[] => {
      on.published.length = 0;
      for (const event of [...events, moved(true), { kind: 'health', pool: 'chat', address: one, row } as const]) on.exchange.publish(event);
      on.exchange.flush();
      return on.published.flatMap(({ message }) => {
        const read = parsePoolMessage('chat', message);
        return read?.kind === 'events' ? read.events.map(({ kind }) => kind) : [];
      });
    };
    on.wait(1_000);
    expect(pushed()).toEqual(['dispatch', 'health']);
    expect(on.exchange.status().pushing).toBe(true);

    on.hear('a', 1);
    expect(pushed()).toEqual(['dispatch', 'first-token', 'done', 'dispatch', 'health']);
    on.wait(700, { alive: [] });
    expect(pushed()).toHaveLength(5);
    on.wait(300);
    expect(pushed()).toEqual(['dispatch', 'health']);
  });

  it('alone, load asks for no flush', () => {
    on.wait(100);
    on.exchange.publish(dispatch());
    expect(on.wakes).toBe(0);
    on.exchange.publish(moved(true));
    expect(on.wakes).toBe(1);
  });

  it('events wait for one flush, in one message a pool, and ask for it once', () => {
    on.hear('a', 1);
    on.exchange.publish(dispatch());
    on.exchange.publish({ kind: 'done', pool: 'chat', address: one, promptTokens: 10, uncachedTokens: 10, waiting: true });
    on.exchange.publish(dispatch({ pool: 'batch' }));
    expect([on.wakes, on.published.length]).toEqual([1, 0]);
    on.exchange.flush();
    expect(on.published.map(({ pool }) => pool)).toEqual(['chat', 'batch']);
    expect(parsePoolMessage('chat', on.published[0]!.message)).toMatchObject({ kind: 'events', router: 'me', events: [{ kind: 'dispatch' }, { kind: 'done' }] });
    on.exchange.flush();
    expect(on.published).toHaveLength(2);
    on.exchange.publish(dispatch());
    expect(on.wakes).toBe(2);
  });

  it('a snapshot tells the load of every pool, each message with a higher number than the last', () => {
    Object.assign(on.fleet.pool('chat')!.endpoint(two)!.own, { requests: 2, promptTokens: 70, requestsWaiting: 1, uncachedTokensWaiting: 30 });
    on.hear('a', 1);
    on.exchange.publish(dispatch());
    on.wait(200);
    expect(on.snapshots.map(({ pool }) => pool)).toEqual(['chat', 'batch', 'chat', 'batch']);
    const messages = [...on.published, ...on.snapshots].map(({ pool, message }) => parsePoolMessage(pool, message)!);
    expect(messages[1]).toMatchObject({ kind: 'snapshot', pushes: true, loads: new Map([[two, { requests: 2, promptTokens: 70, requestsWaiting: 1, uncachedTokensWaiting: 30 }]]) });
    // What was batched goes out before the snapshot that counts it already, so that nobody adds it a second time.
    expect(messages.map(({ sequence }) => sequence)).toEqual([1, 2, 3, 4, 5]);
  });

  it('however much gathers, every message is one that readers take', () => {
    // Such as 30 000 requests that expire in the same second, or reports that gathered while the process stood still.
    on.wait(100, { alive: ['a'] });
    for (let i = 0; i < 30_000; i += 1) on.exchange.publish(i === 29_999 ? moved(true) : dispatch());
    for (let i = 0; i < 30_000; i += 1) on.exchange.forward('a', `a.${i}`, finished);
    on.exchange.flush();
    const events = on.published.flatMap(({ message }) => {
      const read = parsePoolMessage('chat', message);
      return read?.kind === 'events' ? read.events : [];
    });
    expect(events).toHaveLength(30_000);
    expect(events.at(-1)).toMatchObject({ placement: { keyId } });
    expect(on.forwards.flatMap(({ message }) => reportsIn(message))).toHaveLength(30_000);
  });

  it('long prompts by the thousand are more messages, not longer ones', () => {
    const prefixHashes = Array.from({ length: 512 }, (_, i) => 2 ** 53 - 1 - i);
    on.hear('a', 1);
    for (let i = 0; i < 2_000; i += 1) on.exchange.publish(dispatch({ promptTokens: i, cached: { keyId, prefixHashes } }));
    on.exchange.flush();
    const events = on.published.flatMap(({ message }) => {
      const read = parsePoolMessage('chat', message);
      return read?.kind === 'events' ? read.events : [];
    });
    expect(events.map((event) => event.kind === 'dispatch' && event.promptTokens)).toEqual(Array.from({ length: 2_000 }, (_, i) => i));
    expect(events.at(-1)).toMatchObject({ cached: { keyId, prefixHashes } });
    expect(on.published.length).toBeLessThan(6);
  });

  it('moved sessions are also kept: where they are, or that they are home', () => {
    on.exchange.publish(moved(true));
    on.exchange.publish(dispatch());
    on.exchange.publish(moved(false));
    on.exchange.flush();
    expect(on.stored).toEqual([{ pool: 'chat', placements: [{ keyId, address: one }, { keyId, address: undefined }] }]);
  });
});

describe('what a router hears', () => {
  it('load by snapshot and by event; what is older than the last word of its sender is dropped', () => {
    on.hear('a', 5, 3);
    on.exchange.receive('chat', encodeEvents('a', 6, [dispatch()]));
    expect(on.requests()).toBe(4);
    on.exchange.receive('chat', encodeEvents('a', 6, [dispatch()]));
    on.hear('a', 4, 9);
    expect(on.requests()).toBe(4);
    on.hear('b', 1, 2);
    expect(on.requests()).toBe(6);
    expect(on.exchange.status().routers).toMatchObject([{ id: 'me' }, { id: 'a', requestsInFlight: 4 }, { id: 'b', requestsInFlight: 2 }]);
  });

  it('a message of one pool that is overtaken by one of another still counts', () => {
    on.hear('a', 8, 1, { pool: 'batch' });
    on.hear('a', 7, 3);
    expect([on.requests(), on.requests('batch')]).toEqual([3, 1]);
    on.hear('a', 6, 9);
    expect(on.requests()).toBe(3);
  });

  it('a router that does not push moves sessions all the same, and its events count no load', () => {
    on.hear('a', 1, 3, { pushes: false });
    on.exchange.receive('chat', encodeEvents('a', 2, [moved(true), dispatch()]));
    expect(on.requests()).toBe(3);
    expect(on.placements.find('chat', keyId)).toBe(one);
  });

  it('what is kept: sessions away, and sessions home again', () => {
    on.exchange.receivePlacements('chat', [{ keyId, address: two }]);
    expect(on.placements.find('chat', keyId)).toBe(two);
    on.exchange.receivePlacements('chat', [{ keyId, address: '10.0.0.9:80' }, { keyId, address: one }]);
    expect(on.placements.find('chat', keyId)).toBe(one);
    on.exchange.receivePlacements('chat', [{ keyId, address: undefined }]);
    expect(on.placements.find('chat', keyId)).toBeUndefined();
  });

  it('nonsense changes nothing', () => {
    on.hear('a', 1, 3);
    for (const text of ['', '[]', '{"__proto__":1}', encodeSnapshot('a', 2, new Map([['10.0.0.9:80', { requests: 9, promptTokens: 9, requestsWaiting: 9, uncachedTokensWaiting: 9 }]]), true).replace('9,9', '-1,9')]) {
      on.exchange.receive('chat', text);
      on.exchange.receive('__proto__', text);
      on.exchange.receiveReports(text);
    }
    expect(on.requests()).toBe(3);
    expect(on.exchange.status().routers).toHaveLength(2);
  });

  it('however many routers someone makes up, no more are kept than a fleet can have, and silent ones are forgotten', () => {
    on.wait(100);
    for (let i = 0; i < 20_000; i += 1) on.hear(`made-up-${i}`, 1, 1);
    expect(on.exchange.status().routers.length).toBeLessThanOrEqual(10_001);
    on.wait(1_000);
    expect(on.exchange.status().routers).toHaveLength(1);
    expect(on.requests()).toBe(0);
  });

  it('someone who speaks in the name of a router cannot silence it for long', () => {
    on.wait(100);
    on.hear('a', Number.MAX_SAFE_INTEGER, 1);
    for (let sequence = 1; sequence <= 12; sequence += 1) {
      on.wait(100);
      on.hear('a', sequence, 7);
    }
    expect(on.requests()).toBe(7);
  });
});

describe('who is there', () => {
  it('a router without a word for 8 periods is gone, and its load with it', () => {
    on.wait(100);
    on.hear('a', 1, 3);
    on.hear('b', 1, 2);
    on.wait(700);
    on.hear('b', 2, 2);
    expect(on.requests()).toBe(5);
    on.wait(200);
    expect(on.requests()).toBe(2);
    expect(on.exchange.status()).toMatchObject({ connected: true, routersLastSeen: 2, routers: [{ id: 'me' }, { id: 'b', ageMs: 200 }] });
  });

  it('while our own words do not come back, silence says nothing: the last word stands half a minute, then means nothing any more', () => {
    on.wait(100);
    on.hear('a', 1, 3);
    on.wait(29_000, { echo: false });
    expect(on.exchange.status()).toMatchObject({ connected: false, routersLastSeen: 2 });
    expect(on.requests()).toBe(3);
    on.wait(1_200, { echo: false });
    expect(on.requests()).toBe(0);
    // Caps stay divided by those last seen: they may well be alive.
    expect(on.exchange.status()).toMatchObject({ routersLastSeen: 2, routers: [{ id: 'me' }] });
    expect(on.exchange.capShare()).toEqual({ routers: 2, rank: 1 });
  });

  it('after an outage everyone gets the time to speak before being missed', () => {
    on.wait(100);
    on.hear('a', 1, 3);
    on.wait(5_000, { echo: false });
    on.wait(100);
    on.wait(700);
    expect(on.requests()).toBe(3);
    on.wait(300);
    expect(on.requests()).toBe(0);
  });

  it('what routers that do not push are believed to add does not pile up over an outage', () => {
    on.wait(100);
    on.hear('a', 1, 3, { pushes: false });
    for (let i = 0; i < 100; i += 1) {
      on.fleet.pool('chat')!.endpoint(one)!.added.requests += 50;
      on.wait(100, { echo: false });
    }
    expect(on.requests()).toBeLessThanOrEqual(3 + 50 * 4);
    on.fleet.pool('chat')!.endpoint(one)!.added.requests += 5;
    on.wait(100, { echo: false });
    on.fleet.pool('chat')!.endpoint(one)!.added.requests += 5;
    expect(on.requests()).toBe(3 + 5);
  });

  it('limits are divided among those last seen while nobody can be heard, and shared whole again', () => {
    const endpoint = on.fleet.pool('chat')!.endpoint(one)!;
    on.wait(100);
    on.hear('a', 1);
    on.wait(100);
    endpoint.own.requests = 3;
    expect(endpoint.full).toBe(false);
    on.wait(500, { echo: false });
    // a comes before me: of five places it has three.
    expect(endpoint.full).toBe(true);
    on.hear('a', 2);
    on.wait(200);
    expect(endpoint.full).toBe(false);
  });

});

describe('what is kept of sessions', () => {
  const other = keyId.replace('0', '1');

  it('is told again where it was lost, oldest first, as it was told', () => {
    on.exchange.receivePlacements('chat', [{ keyId, address: two }, { keyId: other, address: one }]);
    on.exchange.receivePlacements('batch', [{ keyId, address: one }]);
    on.exchange.retellPlacements('chat');
    expect(on.stored).toEqual([{ pool: 'chat', placements: [{ keyId, address: two }, { keyId: other, address: one }] }]);
  });

  it('is not told again by everyone after each outage: only what could not be kept, once a second, as it is by then', () => {
    on.wait(1_000);
    on.exchange.receivePlacements('chat', Array.from({ length: 100 }, (_, i) => ({ keyId: keyId.replace('0123', String(1_000 + i)), address: one })));
    on.storeFails = true;
    on.exchange.publish(moved(true));
    on.exchange.publish(moved(true, other));
    on.placements.set('chat', keyId, one);
    on.exchange.flush();
    on.stored.length = 0;
    on.wait(2_000, { echo: false });
    on.wait(100);
    // Meanwhile one of them moved on, the other came home.
    on.placements.set('chat', keyId, two);
    on.wait(1_000);
    on.storeFails = false;
    on.stored.length = 0;
    on.wait(1_000);
    expect(on.stored).toEqual([{ pool: 'chat', placements: [{ keyId, address: two }, { keyId: other, address: undefined }] }]);
    on.stored.length = 0;
    on.wait(3_000);
    expect(on.stored).toEqual([]);
  });

  it('is tried again in bounds, however much could not be kept', () => {
    on.wait(1_000);
    on.storeFails = true;
    for (let i = 0; i < 20_000; i += 1) on.exchange.publish(moved(true, i.toString(16).padStart(32, '0')));
    on.exchange.flush();
    on.stored.length = 0;
    on.wait(1_000);
    expect(on.stored.map(({ placements }) => placements.length)).toEqual([5_000]);
  });
});

describe('pushing', () => {
  const publish = (count: number): void => {
    for (let i = 0; i < count; i += 1) on.exchange.publish(dispatch());
  };

  it('stops above the bound, reckoned over all routers, and says so; moved sessions are still told', () => {
    on.wait(1_000, { alive: ['a'] });
    publish(450);
    on.wait(1_000, { alive: ['a'] });
    expect(on.exchange.status().pushing).toBe(true);
    publish(550);
    on.wait(1_000, { alive: ['a'] });
    expect(on.exchange.status().pushing).toBe(false);
    expect(parsePoolMessage('chat', on.snapshots.at(-2)!.message)).toMatchObject({ pushes: false });
    on.published.length = 0;
    publish(5);
    on.exchange.publish(moved(true));
    on.exchange.flush();
    expect(on.published.map(({ message }) => parsePoolMessage('chat', message))).toMatchObject([{ events: [{ placement: { keyId } }] }]);
  });

  it('is taken up again after five calm seconds in a row', () => {
    on.wait(1_000);
    publish(2_000);
    on.wait(1_000);
    expect(on.exchange.status().pushing).toBe(false);
    for (let second = 0; second < 4; second += 1) {
      publish(100);
      on.wait(1_000);
    }
    publish(700);
    on.wait(1_000);
    for (let second = 0; second < 4; second += 1) on.wait(1_000);
    expect(on.exchange.status().pushing).toBe(false);
    on.wait(1_000);
    expect(on.exchange.status().pushing).toBe(true);
  });

  it('with a bound of nothing, nothing is pushed from the first request on', () => {
    on = bench({ pushEventsPerSecondMax: 0 });
    publish(3);
    on.exchange.flush();
    expect([on.published.length, on.exchange.status().pushing]).toEqual([0, false]);
    on.wait(20_000);
    expect(on.exchange.status().pushing).toBe(false);
  });
});

describe('what routers say of endpoints’ health', () => {
  const row: HealthRow = { address: one, aspect: 'breaker', version: 1, by: 'me', value: 'open', ms: 900, strikes: 1, cause: 'failures', detail: undefined };
  const told = (): (readonly HealthRow[] | undefined)[] =>
    on.snapshots.splice(0).filter(({ pool }) => pool === 'chat').map(({ message }) => {
      const parsed = parsePoolMessage('chat', message);
      return parsed?.kind === 'snapshot' ? parsed.health : undefined;
    });
  let heard: [string, HealthRow][];
  let endpoint: FleetEndpoint;
  beforeEach(() => {
    heard = [];
    const fleet = new FleetView([{ name: 'chat', endpoints: [{ address: one, weight: 1, labels: {}, requestsMax: undefined }] }]);
    endpoint = fleet.pool('chat')!.endpoint(one)!;
    const state = new SharedState(fleet, new Placements());
    state.health = { rows: () => [row], receive: (pool, word) => heard.push([pool, word]), heardToken: () => undefined };
    on = bench({ state, pushEventsPerSecondMax: 0 });
  });

  it('goes out at once, also while load is not pushed', () => {
    on.exchange.publish(dispatch());
    on.exchange.publish({ kind: 'health', pool: 'chat', address: one, row });
    on.exchange.flush();
    expect(on.published.map(({ message }) => parsePoolMessage('chat', message))).toMatchObject([{ events: [{ kind: 'health', row }] }]);
  });

  it('is told again about once a second, and at once when a router is heard for the first time', () => {
    on.wait(2_000);
    expect(told().filter((rows) => rows !== undefined)).toHaveLength(2);
    on.wait(100);
    told();
    on.hear('b', 1);
    on.wait(100);
    expect(told()).toEqual([[row]]);
  });

  it('is heard from routers that push and from those that do not', () => {
    on.hear('b', 1, 0, { pushes: false });
    on.exchange.receive('chat', encodeEvents('b', 2, [{ kind: 'health', pool: 'chat', address: one, row }]));
    on.exchange.receive('chat', encodeSnapshot('b', 3, new Map(), true, undefined, [row]));
    expect(heard).toEqual([['chat', row], ['chat', row]]);
  });

  it('what ended or gave a first token elsewhere is a sign that the endpoint works', () => {
    on.hear('b', 1);
    on.exchange.receive('chat', encodeEvents('b', 2, [dispatch(), { kind: 'first-token', pool: 'chat', address: one, uncachedTokens: 1 }]));
    expect(endpoint.health.progressMs).toBe(on.nowMs);
  });
});

describe('reports for other routers', () => {
  it('go to their owners, batched, and only our own are taken', () => {
    on.wait(100);
    on.exchange.forward('a', 'a.1', finished);
    on.exchange.forward('b', 'b.1', finished);
    on.exchange.forward('a', 'a.2', finished);
    on.exchange.flush();
    expect(on.forwards.map(({ owner, message }) => [owner, ...reportsIn(message).map(({ lease }) => lease)])).toEqual([['a', 'a.1', 'a.2'], ['b', 'b.1']]);
    // Handing on what was handed on could go round for ever, and one message could be made to cause many.
    const reports = ['me.1', 'a.1', 'me', 'x', 'me.too.1', 'me.2'].map((lease) => ({ lease, completion: finished }));
    on.exchange.receiveReports(encodeReports({ router: 'a', number: 1, reports, received: [] }));
    expect(on.received).toEqual(['me.1', 'me.2']);
  });

  it('that could not be sent are tried again once a period, however much else happens, and arrive whole', () => {
    on.wait(100, { alive: ['a'] });
    on.forwardFails = true;
    for (let i = 0; i < 2_500; i += 1) expect(on.exchange.forward('a', `a.${i}`, finished)).toBe(true);
    for (let i = 0; i < 50; i += 1) {
      on.exchange.publish(dispatch());
      on.exchange.flush();
    }
    expect(on.forwards).toHaveLength(3);
    on.wait(100, { alive: ['a'] });
    expect(on.forwards).toHaveLength(6);
    on.forwardFails = false;
    on.forwards.length = 0;
    on.wait(100, { alive: ['a'] });
    expect(on.forwards.flatMap(({ message }) => reportsIn(message)).map(({ lease }) => lease)).toEqual(Array.from({ length: 2_500 }, (_, i) => `a.${i}`));
    on.acknowledge();
    on.wait(1_000, { alive: ['a'] });
    expect(on.forwards).toEqual([]);
  });

  it('that nobody acknowledged within three periods are sent again, and not before', () => {
    on.wait(100, { alive: ['a'] });
    on.exchange.forward('a', 'a.1', finished);
    on.exchange.flush();
    on.wait(200, { alive: ['a'] });
    expect(on.forwards).toHaveLength(1);
    on.wait(100, { alive: ['a'] });
    expect(on.forwards.map(({ message }) => reportsIn(message).map(({ lease }) => lease))).toEqual([['a.1'], ['a.1']]);
    expect(on.exchange.reportsWaiting).toBe(1);
    on.acknowledge();
    expect(on.exchange.reportsWaiting).toBe(0);
  });

  it('of others are acknowledged once a period, to those that are there', () => {
    on.wait(100, { alive: ['a'] });
    const sent = (router: string, number: number): void => on.exchange.receiveReports(encodeReports({ router, number, reports: [{ lease: 'me.1', completion: finished }], received: [] }));
    sent('a', 7);
    sent('a', 8);
    sent('nobody', 1);
    on.exchange.flush();
    expect(on.forwards).toEqual([]);
    on.wait(100, { alive: ['a'] });
    expect(on.forwards.map(({ owner, message }) => [owner, parseReports(message)])).toEqual([['a', { router: 'me', number: 0, reports: [], received: [7, 8] }]]);
    on.wait(1_000, { alive: ['a'] });
    expect(on.forwards).toHaveLength(1);
  });

  it('wait through an outage without costing anything, and arrive when it is over', () => {
    on.wait(100, { alive: ['a'] });
    on.wait(500, { echo: false });
    for (let i = 0; i < 2_500; i += 1) on.exchange.forward('a', `a.${i}`, finished);
    for (let i = 0; i < 50; i += 1) {
      on.exchange.publish(dispatch());
      on.exchange.flush();
    }
    on.wait(20_000, { echo: false });
    expect(on.forwards).toEqual([]);
    on.wait(200);
    expect(on.forwards.flatMap(({ message }) => reportsIn(message))).toHaveLength(2_500);
  });

  it('are tried once more when their router goes', () => {
    on.wait(100, { alive: ['a', 'b'] });
    on.forwardFails = true;
    on.exchange.forward('a', 'a.1', finished);
    on.exchange.flush();
    on.exchange.forward('b', 'b.1', finished);
    on.forwards.length = 0;
    on.exchange.flushAll();
    expect(on.forwards.map(({ owner }) => owner).sort()).toEqual(['a', 'b']);
    expect(on.exchange.reportsWaiting).toBe(2);
    on.wait(500, { echo: false });
    on.exchange.forward('c', 'c.1', finished);
    on.forwards.length = 0;
    on.exchange.flushAll();
    expect(on.forwards.map(({ owner }) => owner)).toContain('c');
  });

  it('that cannot be sent are bounded', () => {
    on.wait(100);
    on.wait(400, { echo: false });
    on.forwardFails = true;
    let taken = 0;
    for (let i = 0; i < 120_000; i += 1) {
      if (on.exchange.forward('a', `a.${i}`, finished)) taken += 1;
      if (i % 1_000 === 0) on.exchange.flush();
    }
    expect(taken).toBe(50_000);
  });

  it('for a router that is gone are dropped', () => {
    on.wait(100);
    on.hear('a', 1);
    on.wait(1_000);
    on.forwardFails = true;
    on.exchange.forward('a', 'a.1', finished);
    on.wait(100);
    on.forwards.length = 0;
    on.wait(300);
    expect(on.forwards).toEqual([]);
  });
});

// ---- several routers on a modelled network ----

function network(routers: number, options: Partial<NetworkOptions> & { seed: string; endpoints?: number; policy?: string }): ModelledNetwork {
  const { seed, endpoints = 10, policy = 'session-affinity', ...more } = options;
  const made = new ModelledNetwork({ config: chatPool(endpoints, policy), draw: seededDraw(seed), ...more });
  for (let i = 0; i < routers; i += 1) made.join(`r${i}`);
  made.run(1_000);
  return made;
}

const seeds = Array.from({ length: 12 }, (_, i) => `seed ${i}`);
const sentTo = (net: ModelledNetwork, seed: string, requests: number, gapMs: number): Map<string, number> => {
  const draw = seededDraw(`${seed}, arrivals`);
  const sent = new Map<string, number>();
  for (let i = 0; i < requests; i += 1) {
    net.run(net.nowMs + gapMs);
    const at = net.routers[Math.floor(draw() * net.routers.length)]!;
    const address = at.route({ session: `${seed} ${i}`, promptTokens: 1_000 }).addresses[0]!;
    sent.set(address, (sent.get(address) ?? 0) + 1);
  }
  return sent;
};

/** Nine endpoints with ten requests each that all routers know of, one idle: how many of 40 requests in 50 ms go to the idle one. */
function toTheIdleOne(routers: number, seed: string, pushEventsPerSecondMax: number): number {
  const net = network(routers, { seed, policy: 'least-requests', pushEventsPerSecondMax });
  for (let endpoint = 2; endpoint <= 10; endpoint += 1) {
    for (let i = 0; i < 10; i += 1) {
      const { own } = net.routers[(endpoint * 10 + i) % routers]!.fleet.pool('chat')!.endpoint(`10.0.0.${endpoint}:80`)!;
      own.requests += 1;
      own.promptTokens += 1_000;
    }
  }
  net.run(net.nowMs + 500);
  return sentTo(net, seed, 40, 50 / 40).get('10.0.0.1:80') ?? 0;
}

describe('a burst over 4 routers', () => {
  it('200 requests in 50 ms on 10 idle endpoints: the fullest gets at most 1.15 × the mean', () => {
    const fullest = seeds.map((seed) => Math.max(...sentTo(network(4, { seed, policy: 'least-requests' }), seed, 200, 0.25).values()) / 20);
    expect(Math.max(...fullest), fullest.join(' ')).toBeLessThanOrEqual(1.15);
  });

  it('nine loaded endpoints and an idle one, 40 requests: as many to the idle one as from a single router, and a few', () => {
    const alone = seeds.map((seed) => toTheIdleOne(1, seed, 1e9));
    const pushed = seeds.map((seed) => toTheIdleOne(4, seed, 1e9));
    const told = seeds.map((seed) => toTheIdleOne(4, seed, 0));
    expect(Math.max(...alone), alone.join(' ')).toBeLessThanOrEqual(14);
    expect(Math.max(...pushed), pushed.join(' ')).toBeLessThanOrEqual(16);
    expect(Math.max(...told), told.join(' ')).toBeLessThanOrEqual(18);
  });
});

describe('several routers', () => {
  const home = (net: ModelledNetwork, session: string): string => net.routers[0]!.route({ session, promptTokens: 1 }).decision.home!;

  it('a session that was diverted is found where it is, by every router and by one that joins', () => {
    const net = network(3, { seed: 'diverted' });
    const [first] = net.routers;
    const at = home(net, 's');
    // Its home takes far more than its share, as all routers know.
    Object.assign(first!.fleet.pool('chat')!.endpoint(at)!.own, { requests: 50, promptTokens: 50_000 });
    net.run(net.nowMs + 300);
    const diverted = net.routers[1]!.route({ session: 's', promptTokens: 100 });
    expect([diverted.decision.reason, diverted.addresses[0] === at]).toEqual(['affinity-diverted', false]);
    // Home has room again: the cache is elsewhere now.
    Object.assign(first!.fleet.pool('chat')!.endpoint(at)!.own, { requests: 0, promptTokens: 0 });
    net.run(net.nowMs + 300);
    net.join('late');
    for (const router of net.routers) {
      const next = router.route({ session: 's', promptTokens: 100 });
      expect([router.id, next.decision.reason, next.addresses[0]]).toEqual([router.id, 'affinity-placed', diverted.addresses[0]]);
    }
  });

  it('a session whose home goes and comes back stays where it went, turn after turn on any router', () => {
    const net = network(3, { seed: 'flap' });
    const at = home(net, 's');
    const everywhere = (ready: boolean): void => {
      for (const { fleet } of net.routers) fleet.pool('chat')!.endpoint(at)!.state = ready ? 'ready' : 'not-ready';
    };
    const taken = new Set<string>();
    for (let turn = 0; turn < 12; turn += 1) {
      everywhere(turn % 4 === 3);
      const router = net.routers[turn % 3]!;
      const routed = router.route({ session: 's', promptTokens: 100 });
      taken.add(routed.addresses[0]!);
      router.finish(routed);
      net.run(net.nowMs + 20);
    }
    expect([...taken]).toHaveLength(1);
    expect(taken).not.toContain(at);
  });

  it('a session that came home is at home for one that joins', () => {
    const net = network(2, { seed: 'came home' });
    const at = home(net, 's');
    const { endpoints } = net.routers[0]!.fleet.pool('chat')!;
    for (const { fleet } of net.routers) fleet.pool('chat')!.endpoint(at)!.state = 'not-ready';
    const away = net.routers[0]!.route({ session: 's', promptTokens: 100 }).addresses[0]!;
    net.run(net.nowMs + 20);
    for (const { fleet } of net.routers) for (const endpoint of fleet.pool('chat')!.endpoints) endpoint.state = endpoint.address === at ? 'ready' : 'not-ready';
    net.routers[1]!.route({ session: 's', promptTokens: 100 });
    net.run(net.nowMs + 20);
    expect(net.stored.map(({ address }) => address)).toEqual([away, undefined]);
    expect(endpoints).toHaveLength(10);
    expect(net.join('late').route({ session: 's', promptTokens: 100 }).addresses[0]).toBe(at);
  });

  it('that hear nothing of one another agree on every session whose home is within its bound', () => {
    const net = network(2, { seed: 'partition' });
    for (const router of net.routers) router.cut = true;
    net.run(net.nowMs + 1_000);
    const [a, b] = net.routers;
    let agreed = 0;
    for (let i = 0; i < 300; i += 1) {
      // Unlike loads on each side: what one side's bound turns away, the other cannot know.
      const [ours, theirs] = [a!.route({ session: `s${i}`, promptTokens: 500 }), b!.route({ session: `s${i}`, promptTokens: 500 })];
      if (i % 3 > 0) a!.finish(ours);
      if (i % 4 > 0) b!.finish(theirs);
      if (ours.decision.reason !== 'affinity-home' || theirs.decision.reason !== 'affinity-home') continue;
      expect(theirs.addresses[0]).toBe(ours.addresses[0]);
      agreed += 1;
    }
    expect(agreed).toBeGreaterThan(200);
  });

  /** 1000 sessions of 8 turns, each at a router by chance, 2 requests a ms that last 40 ms: 80 in flight on 10 endpoints. */
  function manyTurns(routers: number, seed: string, slackRequests: number): { same: number; beyond: number } {
    const addresses = Array.from({ length: 10 }, (_, i) => `{ address: '10.0.0.${i + 1}:80' }`).join(', ');
    const config = compiled(`pools: [{ name: chat, policy: { preset: session-affinity, parameters: { slackRequests: ${slackRequests} } }, endpoints: [${addresses}] }]`);
    const net = network(routers, { seed, config });
    const draw = seededDraw(`${seed}, arrivals`);
    const last = new Map<number, string>();
    let [same, beyond] = [0, -Infinity];
    for (let turn = 0; turn < 8; turn += 1) {
      const order = Array.from({ length: 1_000 }, (_, session) => ({ session, at: draw() })).sort((a, b) => a.at - b.at);
      for (const { session } of order) {
        net.run(net.nowMs + 0.5);
        const router = net.routers[Math.floor(draw() * routers)]!;
        const routed = router.route({ session: `s${session}`, promptTokens: 1_000 });
        net.later(40, () => router.finish(routed));
        if (last.get(session) === routed.addresses[0]) same += 1;
        last.set(session, routed.addresses[0]!);
        // The truth, of all routers together.
        const loads = addressesOf(net).map((address) => net.routers.reduce((sum, { fleet }) => sum + fleet.pool('chat')!.endpoint(address)!.own.requests, 0));
        const mean = loads.reduce((sum, load) => sum + load, 0) / loads.length;
        beyond = Math.max(beyond, Math.max(...loads) - Math.max(1.25 * mean, mean + slackRequests));
      }
    }
    return { same: same / 7_000, beyond };
  }
  const addressesOf = (net: ModelledNetwork): string[] => net.routers[0]!.fleet.pool('chat')!.endpoints.map(({ address }) => address);

  it('follow-up turns of 1000 sessions over 4 routers go where the session is, where the bound leaves it', () => {
    expect(manyTurns(4, 'wide', 10).same).toBeGreaterThanOrEqual(0.98);
  });

  it('a tight bound moves hardly more sessions than with a single router, and is passed by no more than is on the road between routers', () => {
    const alone = manyTurns(1, 'tight', 2);
    const four = manyTurns(4, 'tight', 2);
    expect(alone.beyond).toBeLessThanOrEqual(0);
    expect(four.same).toBeGreaterThanOrEqual(alone.same - 0.06);
    // 2 requests a ms, 2 ms on the way.
    expect(four.beyond).toBeLessThanOrEqual(4);
  });

  it('through kills, cuts, joins, flapping endpoints and a bad network no load is below nothing, and in the end none is left', { timeout: 60_000 }, () => {
    const router = fc.nat({ max: 5 });
    const step = fc.oneof(
      { weight: 8, arbitrary: fc.record({ kind: fc.constant('route' as const), router, session: fc.nat({ max: 20 }), promptTokens: fc.nat({ max: 3_000 }) }) },
      { weight: 6, arbitrary: fc.record({ kind: fc.constant('finish' as const), which: fc.nat() }) },
      { weight: 3, arbitrary: fc.record({ kind: fc.constant('report' as const), which: fc.nat(), router }) },
      { weight: 2, arbitrary: fc.record({ kind: fc.constant('first-token' as const), which: fc.nat() }) },
      { weight: 4, arbitrary: fc.record({ kind: fc.constant('wait' as const), ms: fc.constantFrom(1, 3, 20, 100, 500, 1_500) }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('kill' as const), router }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('join' as const) }) },
      { weight: 2, arbitrary: fc.record({ kind: fc.constant('cut' as const), router }) },
      { weight: 2, arbitrary: fc.record({ kind: fc.constant('flap' as const), endpoint: fc.nat({ max: 3 }) }) },
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), fc.string({ maxLength: 4 }), fc.constantFrom(0, 5, 1e9), (steps, seed, pushEventsPerSecondMax) => {
        const draw = seededDraw(`chaos ${seed}`);
        let bad = true;
        const net = network(3, {
          seed,
          endpoints: 4,
          pushEventsPerSecondMax,
          delayMs: () => (bad ? 1 + Math.floor(draw() ** 4 * 150) : 1),
          loses: () => bad && draw() < 0.1,
          copies: () => (bad && draw() < 0.1 ? 2 : 1),
        });
        const open: { by: ModelledRouter; routed: ReturnType<ModelledRouter['route']> }[] = [];
        const pick = (which: number): (typeof open)[number] | undefined => open[which % Math.max(1, open.length)];
        for (const it of steps) {
          const alive = net.routers.filter(({ dead }) => !dead);
          const at = alive[('router' in it ? it.router : 0) % alive.length]!;
          if (it.kind === 'route') open.push({ by: at, routed: at.route({ session: `s${it.session}`, promptTokens: it.promptTokens }) });
          else if (it.kind === 'finish') pick(it.which)?.by.finish(pick(it.which)!.routed);
          else if (it.kind === 'report' && pick(it.which) !== undefined) at.finish(pick(it.which)!.routed);
          else if (it.kind === 'first-token' && pick(it.which)?.by.dead === false) pick(it.which)!.by.router.firstToken(pick(it.which)!.routed.lease);
          else if (it.kind === 'wait') net.run(net.nowMs + it.ms);
          else if (it.kind === 'kill' && alive.length > 1) at.dead = true;
          else if (it.kind === 'join' && net.routers.length < 8) net.join(`j${net.routers.length}`);
          else if (it.kind === 'cut') at.cut = !at.cut;
          else if (it.kind === 'flap') {
            const endpoint = at.fleet.pool('chat')!.endpoints[it.endpoint]!;
            endpoint.state = endpoint.state === 'ready' && at.fleet.pool('chat')!.endpoints.filter(({ state }) => state === 'ready').length > 1 ? 'not-ready' : 'ready';
          }
          for (const { fleet } of alive) {
            for (const { own, foreign, requests, promptTokens, requestsWaiting, uncachedTokensWaiting } of fleet.pool('chat')!.endpoints) {
              const others = [requests - own.requests, promptTokens - own.promptTokens, requestsWaiting - own.requestsWaiting, uncachedTokensWaiting - own.uncachedTokensWaiting];
              expect(Math.min(...Object.values(own.toLoad()), ...Object.values(foreign.toLoad()), ...others)).toBeGreaterThanOrEqual(0);
            }
          }
        }
        bad = false;
        const alive = net.routers.filter(({ dead }) => !dead);
        for (const one of alive) one.cut = false;
        for (const { by, routed } of open) if (!by.dead) by.finish(routed);
        net.run(net.nowMs + 2_000);
        for (const { fleet, exchange } of alive) {
          expect(exchange.status()).toMatchObject({ connected: true, routersLastSeen: alive.length });
          for (const { own, foreign, requests, line } of fleet.pool('chat')!.endpoints) {
            expect([own.toLoad(), foreign.toLoad(), requests, line.length]).toEqual([noLoad, noLoad, 0, 0]);
          }
        }
      }),
      { numRuns: 60 },
    );
  });
});

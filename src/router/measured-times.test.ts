import { beforeEach, describe, expect, it } from 'vitest';
import { loadConfig } from '../config/load.ts';
import type { LatencySnapshot } from '../core/fleet-snapshot.ts';
import { noFacts } from '../core/request-facts.ts';
import { FleetView } from '../fleet/fleet-view.ts';
import { combineEvents } from '../telemetry/event-log.ts';
import { createMemoryExchange } from './memory-exchange.ts';
import type { Completion } from './ports.ts';
import { Router } from './router.ts';

const one = '10.0.0.1:80';
const other = '10.0.0.2:80';
const finished: Completion = { ending: 'finished', signal: 'access-log', status: 200, attempts: 1 };

let nowMs: number;
let router: Router;
let fleet: FleetView;

const latency = (address: string): LatencySnapshot | undefined => fleet.pool('chat')?.endpoint(address)?.latency;

/** A router whose requests all go to the first endpoint. */
function start(endpoints: string, policy = '{ filters: [{ type: labels, parameters: { require: { first: yes } } }], picker: round-robin }'): void {
  const outcome = loadConfig(`pools: [{ name: chat, policy: ${policy}, observe: { firstToken: true }, endpoints: [${endpoints}] }]`);
  if (!outcome.ok) throw new Error(JSON.stringify(outcome.problems));
  const { pools, table } = outcome.config;
  fleet = new FleetView(pools);
  router = new Router({
    id: 'a',
    table,
    fleet,
    affinitySecret: 'test-secret',
    clock: { nowMs: () => nowMs },
    rng: { draw: () => 0.5 },
    exchange: createMemoryExchange(),
    events: combineEvents(),
    expireAfterMsMax: 1_800_000,
    assumedDurationMs: 30_000,
    endpointsMax: 8,
  });
}

function route(): string {
  const routed = router.route({ ...noFacts, path: '/v1/chat/completions', model: 'm' });
  if (routed.kind !== 'route') throw new Error(`refused: ${routed.code}`);
  return routed.lease;
}

/** One request from its decision to its end; `ttftMs` undefined: no first token came. */
function request(ttftMs: number | undefined, completion: Completion, durationMs = 1_000): void {
  const startedMs = nowMs;
  const lease = route();
  if (ttftMs !== undefined) {
    nowMs = startedMs + ttftMs;
    router.firstToken(lease);
  }
  nowMs = startedMs + durationMs;
  router.observe(lease, completion);
}

beforeEach(() => {
  nowMs = 5_000;
  start(`{ address: '${one}', labels: { first: yes } }, { address: '${other}' }`);
});

describe('what is measured of requests', () => {
  it('is the time from decision to first token, and the pace after it', () => {
    request(200, { ...finished, servedBy: one, answerMs: 1_200, responseBytes: 256 * 101 });
    expect(latency(one)).toEqual({
      ...{ samples: 1, ttftMs: { mean: 200, p95: 200, p99: 200 }, tpotMs: { mean: 10, p95: 10, p99: 10 }, failureShare: 0 },
    });
    expect(latency(other)).toBeUndefined();
  });

  it('has no pace where Envoy tells neither size nor time', () => {
    request(200, finished);
    expect(latency(one)).toMatchObject({ samples: 1, tpotMs: undefined });
  });

  it.each<[string, Completion, object | undefined]>([
    ['a 500 that came fast', { ...finished, status: 500 }, { samples: 0, ttftMs: undefined, failureShare: 1 }],
    ['a connection that was reset', { ...finished, ending: 'upstream-failure', status: 200 }, { samples: 0, failureShare: 1 }],
    ['a 400', { ...finished, status: 400 }, { samples: 0, ttftMs: undefined, failureShare: 0 }],
    ['a 429', { ...finished, status: 429 }, { samples: 0, ttftMs: undefined, failureShare: 0 }],
    ['a client that left while reading', { ...finished, ending: 'client-abort' }, { samples: 1, ttftMs: { mean: 3 }, failureShare: 0 }],
  ])('of %s', (_, completion, expected) => {
    request(3, completion);
    expect(latency(one)).toMatchObject(expected ?? {});
  });

  it.each<Completion>([
    { ending: 'not-proxied', signal: 'access-log' },
    { ending: 'stream-error', signal: 'ext-proc' },
  ])('is nothing of a request that never reached an endpoint: $ending', (completion) => {
    request(undefined, completion);
    expect(latency(one)).toBeUndefined();
  });

  it('goes to the endpoint that answered where Envoy went its own way', () => {
    request(200, { ...finished, servedBy: other, answerMs: 1_200, responseBytes: 256 * 101 });
    expect(latency(one)).toBeUndefined();
    expect(latency(other)).toMatchObject({ samples: 1, ttftMs: { mean: 200 }, tpotMs: { mean: 10 } });
    request(200, { ...finished, servedBy: '10.9.9.9:80' });
    expect(latency(one)).toBeUndefined();
    expect(latency(other)).toMatchObject({ samples: 1 });
  });

  it('blames the chosen endpoint for a retry, and takes no times from it for the one that saved the request', () => {
    for (let i = 0; i < 3; i += 1) request(5, { ...finished, servedBy: other, attempts: 2, answerMs: 1_200, responseBytes: 25_600, firstByteMs: 4 });
    expect(latency(one)).toMatchObject({ samples: 0, ttftMs: undefined, failureShare: 1 });
    expect(latency(other)).toMatchObject({ samples: 0, ttftMs: undefined, failureShare: 0 });
    request(undefined, { ...finished, servedBy: other, attempts: 3, status: 503 });
    expect(latency(other)).toMatchObject({ failureShare: 0.25 });
    // Tried again on the same endpoint: one failure, one answer.
    nowMs += 300_000;
    request(5, { ...finished, servedBy: one, attempts: 2 });
    expect(latency(one)).toMatchObject({ samples: 0, failureShare: 0.5 });
  });

  it('ages while nothing happens, and forgets requests that never end', () => {
    request(200, finished);
    const lease = route();
    router.expire();
    expect(latency(one)).toMatchObject({ samples: 1 });
    nowMs += 300_000;
    router.expire();
    expect(latency(one)).toBeUndefined();
    nowMs += 1_800_000;
    router.expire();
    router.firstToken(lease);
    expect(latency(one)).toBeUndefined();
  });

  it('goes to the rank that was chosen, which Envoy does not tell', () => {
    start(`{ address: '${one}', dpSize: 2 }, { address: '${other}', dpSize: 2 }`, '{ picker: round-robin }');
    request(100, { ...finished, servedBy: one });
    request(300, { ...finished, servedBy: one });
    expect([0, 1].map((rank) => latency(`${one}#${rank}`)?.ttftMs?.mean)).toEqual([100, 300]);
    request(500, { ...finished, servedBy: one });
    expect([0, 1].map((rank) => latency(`${other}#${rank}`)?.ttftMs?.mean)).toEqual([undefined, undefined]);
    expect(latency(`${one}#0`)?.ttftMs?.mean).toBe(300);
  });
});

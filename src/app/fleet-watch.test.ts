import { describe, expect, it } from 'vitest';
import type { ChangeReport } from '../admin/change-report.ts';
import type { EndpointReport, FleetReport } from '../admin/fleet-report.ts';
import { formatAge, formatFleet, formatScreen } from './fleet-text.ts';
import { type FleetAnswer, watchFleet } from './fleet-watch.ts';

const endpoint = {
  address: '10.0.0.1:80',
  state: 'ejected',
  weight: 1,
  requestsInFlight: 2,
  fleetRequestsInFlight: 3,
  promptTokensInFlight: 40,
  changed: { cause: 'failures', detail: '503 \u001b[31m', ageMs: 61_000 },
  retryInMs: 900,
  standby: true,
} as unknown as EndpointReport;
const report: FleetReport = {
  router: { id: 'router-1', state: 'serving', uptimeS: 5 },
  sharing: { kind: 'memory', connected: true, pushing: false, snapshotAgeMs: null, trouble: null },
  routers: [],
  pools: [{ name: 'chat', cluster: 'chat', policy: 'sticky', promptTokensMean: 1, endpoints: [endpoint] }],
  routes: [],
};
const changeAt = (atMs: number, to = 'ejected'): ChangeReport => ({
  time: '2026-01-31T22:00:03.000Z',
  ageMs: 7_000,
  atMs,
  pool: 'chat',
  address: '10.0.0.1:80',
  from: 'ready',
  to,
  cause: 'failures',
  detail: null,
  by: 'router-2',
});

/** Gives one answer after the other, then ends. */
async function watch(answers: readonly FleetAnswer[], rows?: number): Promise<string[]> {
  const ending = new AbortController();
  const written: string[] = [];
  let asked = 0;
  await watchFleet({
    ask: () => {
      const answer = answers[asked]!;
      asked += 1;
      if (asked === answers.length) ending.abort();
      return Promise.resolve(answer);
    },
    write: (text) => written.push(text),
    rows: () => rows,
    signal: ending.signal,
    intervalMs: 1,
  });
  return written;
}

const ok = (...changes: ChangeReport[]): FleetAnswer => ({ ok: true, report, changes });

describe('the table', () => {
  it('says what state an endpoint is in, for how long, and why', () => {
    expect(formatFleet(report)).toMatch(/10\.0\.0\.1:80 \(reserve\) +ejected +1 min +failures \(503 \?\[31m\), tried in 900 ms +1 +2 +3 +40/);
  });

  it.each([
    ['memory', 'memory: this router alone'],
    ['workers', 'workers: connected, events pushed, last heard 40 ms ago'],
    ['redis', 'redis: connected, events pushed, last heard 40 ms ago'],
  ] as const)('says what carries state: %s', (kind, state) => {
    expect(formatFleet({ ...report, sharing: { kind, connected: true, pushing: true, snapshotAgeMs: 40, trouble: null } })).toContain(`state  ${state}\n`);
  });

  it('lets nothing through that steers a terminal', () => {
    expect(formatFleet(report)).not.toContain('\u001b');
  });

  it('has the last changes below, as far as they fit', () => {
    const screen = formatScreen(report, [changeAt(2), changeAt(1)], 40).split('\n');
    expect(screen.filter((line) => line.includes('ready → ejected'))).toHaveLength(2);
    expect(formatScreen(report, [changeAt(2), changeAt(1)], 5).split('\n')).toEqual(screen.slice(0, 5));
  });
});

describe('without a terminal', () => {
  it('the endpoints are told first, then each change once, oldest first', async () => {
    const written = await watch([ok(changeAt(1)), ok(changeAt(1)), ok(changeAt(3, 'ready'), changeAt(2), changeAt(1))]);
    expect(written).toEqual([
      expect.stringMatching(/^\S+ chat 10\.0\.0\.1:80 ejected: failures/),
      '2026-01-31T22:00:03.000Z chat 10.0.0.1:80 ready → ejected: failures, by router-2\n',
      '2026-01-31T22:00:03.000Z chat 10.0.0.1:80 ready → ready: failures, by router-2\n',
    ]);
  });

  it('it is said when some were missed', async () => {
    const written = await watch([ok(changeAt(1)), ok(changeAt(9), changeAt(8))]);
    expect(written.slice(1)).toEqual(['… more changes than are kept\n', expect.stringContaining('ejected'), expect.stringContaining('ejected')]);
  });

  it('a router that does not answer is told of once, and asked again; after a restart all is told anew', async () => {
    const silent: FleetAnswer = { ok: false, cause: 'no fleet from there' };
    const restarted: FleetAnswer = { ok: true, report: { ...report, router: { ...report.router, id: 'router-9' } }, changes: [] };
    const written = await watch([silent, silent, ok(), silent, restarted]);
    expect(written).toEqual(['no fleet from there\n', expect.stringContaining('ejected'), 'no fleet from there\n', expect.stringContaining('ejected')]);
  });
});

describe('in a terminal', () => {
  it('each answer is drawn over the last', async () => {
    const written = await watch([ok(changeAt(1)), { ok: false, cause: 'no fleet from there' }], 40);
    for (const text of written) expect(text).toMatch(/^\u001b\[H\u001b\[2J/);
    expect(written[0]).toContain('last changes');
    expect(written[1]).toContain('asking again');
  });
});

it.each([
  [0, '0 ms'],
  [999, '999 ms'],
  [1_000, '1 s'],
  [61_000, '1 min'],
  [3_600_000, '1 h'],
  [200_000_000, '2 d'],
])('%d ms is %s', (ms, text) => {
  expect(formatAge(ms)).toBe(text);
});

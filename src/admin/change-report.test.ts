import { describe, expect, it } from 'vitest';
import type { EndpointChange } from '../fleet/endpoint-change.ts';
import { changesMax, toChangeReports } from './change-report.ts';

const ejection: EndpointChange = {
  pool: 'chat',
  address: '10.0.0.1:80',
  from: 'ready',
  to: 'ejected',
  cause: 'failures',
  detail: '3 in a row: 503',
  by: 'router-b',
  atMs: 5_000,
  untilMs: 6_000,
};

describe('the changes told', () => {
  it('have the time of a wall clock, and nothing that is undefined', () => {
    const discovered: EndpointChange = { ...ejection, from: undefined, to: 'joining', cause: 'discovered', detail: undefined, by: undefined, untilMs: undefined };
    const wallMs = Date.parse('2026-01-31T22:00:10.000Z');
    const reports = toChangeReports([discovered, { ...ejection, to: undefined, cause: 'removed', atMs: 9_000 }, ejection], 12_000, wallMs);
    const about = { pool: 'chat', address: '10.0.0.1:80' };
    expect(reports).toEqual([
      { ...about, time: '2026-01-31T22:00:03.000Z', ageMs: 7_000, atMs: 5_000, from: 'ready', to: 'ejected', cause: 'failures', detail: '3 in a row: 503', by: 'router-b' },
      { ...about, time: '2026-01-31T22:00:07.000Z', ageMs: 3_000, atMs: 9_000, from: 'ready', to: null, cause: 'removed', detail: '3 in a row: 503', by: 'router-b' },
      { ...about, time: '2026-01-31T22:00:03.000Z', ageMs: 7_000, atMs: 5_000, from: null, to: 'joining', cause: 'discovered', detail: null, by: null },
    ]);
    expect(JSON.parse(JSON.stringify(reports))).toEqual(reports);
  });

  it('are the last ones, newest first', () => {
    const changes = Array.from({ length: changesMax + 10 }, (_, i) => ({ ...ejection, atMs: i }));
    const times = toChangeReports(changes, 100, 0).map(({ atMs }) => atMs);
    expect(times).toHaveLength(changesMax);
    expect([times[0], times.at(-1)]).toEqual([changesMax + 9, 10]);
  });
});

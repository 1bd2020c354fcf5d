import { describe, expect, it } from 'vitest';
import { type HealthRow, parseHealthFields, toHealthFields } from './health-row.ts';

const row: HealthRow = { address: '10.0.0.1:80', aspect: 'breaker', version: 3, by: 'router-a', value: 'open', ms: 1_234, strikes: 2, cause: 'failures', detail: 'last: status 500' };

describe('a word on an endpoint', () => {
  it('comes out as it went in', () => {
    for (const one of [row, { ...row, aspect: 'probe', value: 'failing', strikes: 0, cause: 'probe-failed', detail: undefined } as const]) {
      expect(parseHealthFields(JSON.parse(JSON.stringify(toHealthFields(one))))).toEqual(one);
    }
  });

  it('is refused where anything in it is not what a router writes', () => {
    const fields = toHealthFields(row);
    const bad: [number, unknown][] = [
      [0, ''],
      [0, 'x'.repeat(65)],
      [1, 'constructor'],
      [1, 7],
      [2, 0],
      [2, 1.5],
      [2, -1],
      [3, 'a b'],
      [4, 'passing'],
      [5, -1],
      [5, 1e10],
      [6, 65],
      [7, 'because'],
    ];
    for (const [at, value] of bad) expect(parseHealthFields(fields.with(at, value)), `${at}: ${String(value)}`).toBeUndefined();
    for (const nothing of [undefined, null, 'x', {}, []]) expect(parseHealthFields(nothing)).toBeUndefined();
  });

  it('brings no control characters into logs and terminals, and no long texts', () => {
    const detail = parseHealthFields(toHealthFields(row).with(8, `\u001b[31m${'x'.repeat(500)}`))?.detail;
    expect(detail).toMatch(/^\?\[31mx+$/);
    expect(detail?.length).toBe(160);
  });
});

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { noLoad } from '../../src/fleet/load.ts';
import { FleetPool } from '../../src/fleet/fleet-view.ts';
import { Reservations } from '../../src/fleet/reservations.ts';

const leases = 6;
const endpoints = 3;
const ageMs = 20;

/** What may happen, in any order and as often as it likes: reports come late, twice, or for leases nobody holds. */
const operation = fc.oneof(
  fc.record({
    kind: fc.constant('reserve' as const),
    lease: fc.nat({ max: leases - 1 }),
    endpoint: fc.nat({ max: endpoints - 1 }),
    promptTokens: fc.nat({ max: 100_000 }),
    cachedShare: fc.constantFrom(0, 0.3, 0.9),
  }),
  fc.record({ kind: fc.constant('first-token' as const), lease: fc.nat({ max: leases - 1 }) }),
  fc.record({ kind: fc.constant('release' as const), lease: fc.nat({ max: leases - 1 }) }),
  fc.record({ kind: fc.constant('wait' as const), ms: fc.nat({ max: ageMs }) }),
  fc.record({ kind: fc.constant('expire' as const) }),
);

interface Held {
  endpoint: number;
  promptTokens: number;
  uncachedTokens: number;
  startedMs: number;
  waiting: boolean;
}

describe('reservations', () => {
  it('carry exactly what is held, never less than nothing, and end exactly once, whatever happens', () => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 60 }), (operations) => {
        const pool = new FleetPool({
          name: 'chat',
          endpoints: Array.from({ length: endpoints }, (_, i) => ({ address: `10.0.0.${i}:80`, weight: 1, labels: {}, requestsMax: undefined })),
        });
        const reservations = new Reservations();
        const model = new Map<string, Held>();
        let made = 0;
        let ended = 0;
        let nowMs = 0;

        for (const step of operations) {
          switch (step.kind) {
            case 'reserve': {
              const lease = `a.${step.lease}`;
              const held = model.get(lease);
              const { promptTokens } = step;
              const uncachedTokens = Math.ceil(promptTokens * (1 - step.cachedShare));
              if (held === undefined) made += 1;
              model.set(lease, {
                endpoint: step.endpoint,
                promptTokens,
                uncachedTokens,
                startedMs: held?.startedMs ?? nowMs,
                waiting: held?.waiting ?? true,
              });
              reservations.reserve(lease, pool, pool.endpoints[step.endpoint]!, { promptTokens, uncachedTokens }, nowMs);
              break;
            }
            case 'first-token': {
              const held = model.get(`a.${step.lease}`);
              expect(reservations.firstToken(`a.${step.lease}`, nowMs) !== undefined).toBe(held?.waiting === true);
              if (held !== undefined) held.waiting = false;
              break;
            }
            case 'release': {
              const known = model.delete(`a.${step.lease}`);
              expect(reservations.release(`a.${step.lease}`, nowMs) !== undefined).toBe(known);
              if (known) ended += 1;
              break;
            }
            case 'wait':
              nowMs += step.ms;
              break;
            case 'expire': {
              const due = [...model].filter(([, { startedMs }]) => startedMs <= nowMs - ageMs);
              const expired = reservations.expire(nowMs - ageMs, nowMs);
              expect(expired.map(({ lease }) => lease).sort()).toEqual(due.map(([lease]) => lease).sort());
              expect(expired.map(({ startedMs }) => startedMs)).toEqual(expired.map(({ startedMs }) => startedMs).sort((x, y) => x - y));
              for (const [lease] of due) model.delete(lease);
              ended += due.length;
              break;
            }
          }
          pool.endpoints.forEach(({ own, line }, i) => {
            const here = [...model.values()].filter(({ endpoint }) => endpoint === i);
            expect(own.toLoad()).toEqual({
              requests: here.length,
              promptTokens: here.reduce((sum, { promptTokens }) => sum + promptTokens, 0),
              requestsWaiting: here.filter(({ waiting }) => waiting).length,
              uncachedTokensWaiting: here.reduce((sum, { uncachedTokens, waiting }) => sum + (waiting ? uncachedTokens : 0), 0),
            });
            expect(line.length).toBe(own.requestsWaiting);
          });
          expect(reservations.size).toBe(model.size);
        }

        // Whatever is left ends too, and then nothing is counted anywhere.
        ended += reservations.expire(Infinity, nowMs).length;
        expect(ended).toBe(made);
        expect(reservations.size).toBe(0);
        for (const { own, line } of pool.endpoints) expect([own.toLoad(), line.length, line.headTokens]).toEqual([noLoad, 0, 0]);
      }),
      { numRuns: 500 },
    );
  });
});

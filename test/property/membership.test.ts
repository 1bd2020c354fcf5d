import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import { decide } from '../../src/core/decide.ts';
import { createAffinityHasher } from '../../src/core/hash.ts';
import type { Policy } from '../../src/core/policy.ts';
import { noFacts } from '../../src/core/request-facts.ts';
import type { EndpointDefinition } from '../../src/fleet/endpoint.ts';
import { FleetPool } from '../../src/fleet/fleet-view.ts';

/** Presets that keep sessions where their cache is. */
const presets = ['sticky', 'session-affinity', 'prefix-affinity'];
const sessions = Array.from({ length: 24 }, (_, i) => `session-${i}`);
const hash = createAffinityHasher('test-secret');

function policyOf(preset: string): Policy {
  const outcome = loadConfig(`pools: [{ name: chat, policy: { preset: ${preset}, filters: [slow-start] }, endpoints: [{ address: '10.0.0.1:80' }] }]`);
  if (!outcome.ok) throw new Error(JSON.stringify(outcome.problems));
  return outcome.config.table.routes[0]!.targets[0]!.pool.policy;
}

/** Where an idle pool sends each session. */
function homesIn(pool: FleetPool, policy: Policy, nowMs: number): ReadonlyMap<string, string> {
  return new Map(
    sessions.flatMap((session) => {
      const affinityKey = hash('', session);
      const facts = { ...noFacts, session, promptTokens: 100 };
      const decision = decide(policy, { facts, pool, affinityKey, placedOn: undefined, promptTokens: 100, cachedTokens: new Map(), nowMs, draw: 0.5, sequence: 0 });
      return decision.kind === 'route' ? [[session, decision.addresses[0]!] as const] : [];
    }),
  );
}

const define = (id: number, weight: number): EndpointDefinition => ({ address: `10.0.0.${id}:80`, weight, labels: {}, requestsMax: undefined });
const members = fc.uniqueArray(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 9 });
/** Each step: who is there from now on, and whether those that left are gone by the next. */
const history = fc.array(fc.record({ ids: members, sweeps: fc.boolean() }), { minLength: 1, maxLength: 6 });

describe.each(presets)('sessions under %s', (preset) => {
  const policy = policyOf(preset);

  it('stay where they are through every join and leave, unless it was their endpoint that left or a new one is to have them', () => {
    fc.assert(
      fc.property(members, history, fc.array(fc.constantFrom(1, 2), { minLength: 9, maxLength: 9 }), (first, steps, weights) => {
        const definitionsOf = (ids: readonly number[]): EndpointDefinition[] => ids.map((id) => define(id, weights[id - 1] ?? 1));
        const pool = new FleetPool({ name: 'chat', endpoints: definitionsOf(first) });
        let nowMs = 1_000_000;
        let before = homesIn(pool, policy, nowMs);
        for (const { ids, sweeps } of steps) {
          const joining = new Set(pool.update(definitionsOf(ids), nowMs).flatMap(({ kind, endpoint }) => (kind === 'removed' ? [] : [endpoint.address])));
          if (sweeps) pool.sweep(nowMs, 0);
          const present = new Set(ids.map((id) => define(id, 1).address));
          // At once, in the middle of the slow start of those that joined, and after it.
          for (const laterMs of [0, 30_000, 1_000_000]) {
            const after = homesIn(pool, policy, nowMs + laterMs);
            for (const [session, home] of before) {
              const moved = after.get(session)!;
              expect(present.has(moved)).toBe(true);
              if (present.has(home) && moved !== home) expect([...joining]).toContain(moved);
            }
          }
          nowMs += 1_000_000;
          before = homesIn(pool, policy, nowMs);
        }
        // What came of it hangs on who is there, not on how it came about.
        expect(before).toEqual(homesIn(new FleetPool({ name: 'chat', endpoints: definitionsOf(steps.at(-1)!.ids) }), policy, nowMs));
      }),
      { numRuns: 25 },
    );
  });
});

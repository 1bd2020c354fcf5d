import { describe, expect, it } from 'vitest';
import { createBodies } from '../../bench/micro/bodies.ts';
import { createFleetUnderLoad } from '../../bench/micro/fleet-under-load.ts';
import { measureInTurns } from '../../bench/micro/measure.ts';
import { readFacts } from '../../bench/micro/scanning.ts';

// Ratios within one run, with room for a busy machine: `npm run bench:micro -- --check` measures closely and has the real limits.

const briefly = { rounds: 3, roundMs: 15 };

describe('deciding among 1000 endpoints', () => {
  // The limit is 20 (npm run bench:micro measures it), and all are well below. A machine that is busy with something else for a moment spoils a
  // measurement: it is taken again.
  it.each(['sticky', 'session-affinity', 'round-robin', 'least-requests'])('%s: takes no more than some tens of times what it takes among 5', { retry: 5 }, (policy) => {
    const times = measureInTurns(
      [5, 1_000].map((size) => {
        const bed = createFleetUnderLoad(size, policy);
        for (let i = 0; i < 300; i += 1) {
          bed.routeNext();
          bed.endOldest();
        }
        return { name: String(size), run: () => void bed.routeNext(), after: () => bed.endOldest() };
      }),
      briefly,
    );
    expect(times.ratio('1000', '5')).toBeLessThan(25);
  });
});

describe('10 000 endpoints', () => {
  it.each(['sticky', 'session-affinity', 'least-requests'])('%s: spreads requests and tells Envoy eight of them', (policy) => {
    const bed = createFleetUnderLoad(10_000, policy);
    const chosen = new Set<string>();
    for (let i = 0; i < 50; i += 1) {
      const { addresses, decision } = bed.routeNext();
      expect(new Set(addresses).size).toBe(8);
      chosen.add(addresses[0] ?? '');
      expect(decision.trace.endpoints).toBe(10_000);
      if (i > 0) continue;
      expect(decision.addresses.slice(0, 8)).toEqual(addresses);
      expect(new Set(decision.addresses).size).toBe(9_500);
    }
    expect(chosen.size).toBeGreaterThan(25);
  });
});

describe('reading the facts of a body', () => {
  it.each(createBodies().filter(({ body }) => body.length > 200_000 && body.length < 300_000))('$name: costs no more than JSON.parse of it, or twice that where all is escapes', ({ body, parseShareMax = 0 }) => {
    const times = measureInTurns(
      [
        { name: 'parse', run: () => void JSON.parse(body.toString('utf8')) },
        { name: 'facts', run: () => void readFacts(body, 'chunked') },
      ],
      briefly,
    );
    expect(times.ratio('facts', 'parse')).toBeLessThan(Math.max(1, parseShareMax));
  });
});

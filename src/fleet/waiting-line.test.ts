import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { entriesPerRouterMax, WaitingLine, type WaitingPart } from './waiting-line.ts';

let line: WaitingLine;
beforeEach(() => {
  line = new WaitingLine();
});

/** `[uncached tokens of the first in line, since when]`. */
const head = (): number[] => [line.headTokens, line.headSinceMs];

describe('the head of the line', () => {
  it('is nobody at first', () => {
    expect([line.length, ...head()]).toEqual([0, 0, 0]);
  });

  it('is who came first, whichever router told of it', () => {
    line.join('a', 10, 100);
    line.join('b', 20, 110);
    line.join('a', 30, 120);
    expect(head()).toEqual([10, 100]);
    line.leave('a', 10, 200, true);
    expect(head()).toEqual([20, 200]);
    line.leave('b', 20, 300, true);
    expect(head()).toEqual([30, 300]);
    line.leave('a', 30, 400, true);
    expect([line.length, ...head()]).toEqual([0, 0, 400]);
  });

  it('that ends without a first token makes way, and the next begins then', () => {
    line.join('a', 10, 100);
    line.join('b', 20, 110);
    line.leave('a', 10, 200, false);
    expect(head()).toEqual([20, 200]);
  });

  it('stays when somebody behind it goes, and only a first token shows that the endpoint works', () => {
    line.join('a', 10, 100);
    line.join('b', 20, 110);
    line.join('b', 30, 120);
    line.leave('b', 20, 200, false);
    expect(head()).toEqual([10, 100]);
    line.leave('b', 30, 300, true);
    expect(head()).toEqual([10, 300]);
  });

  it('that comes to an empty line is worked on from then, however long the endpoint was idle', () => {
    line.join('a', 10, 100);
    line.leave('a', 10, 200, true);
    line.join('a', 20, 9_000);
    expect(head()).toEqual([20, 9_000]);
  });

  it('is of no size where all of its prompt is cached, and still the head', () => {
    line.join('a', 0, 100);
    line.join('b', 20, 110);
    expect([line.length, ...head()]).toEqual([2, 0, 100]);
    line.leave('b', 20, 200, false);
    expect(head()).toEqual([0, 100]);
  });
});

describe('leaving', () => {
  it('takes the request of that size, not the first', () => {
    for (const tokens of [10, 20, 30]) line.join('a', tokens, 100);
    line.leave('a', 20, 200, false);
    expect(line.part('a')).toEqual({ requests: 2, tokens: 40 });
    line.leave('a', 10, 300, false);
    expect(head()).toEqual([30, 300]);
  });

  it("takes nothing of another router's, though of that size", () => {
    line.join('a', 10, 100);
    line.leave('b', 10, 200, false);
    expect(head()).toEqual([10, 100]);
    expect(line.part('a')).toEqual({ requests: 1, tokens: 10 });
  });

  it('of a first token whose request nobody heard of is a sign of progress all the same', () => {
    line.join('a', 10, 100);
    line.leave('b', 99, 200, true);
    expect(head()).toEqual([10, 200]);
  });

  it('of a size that nobody has takes the first, and the next make up the difference: the sum stays right', () => {
    // Two of 10 and 30, of which only a snapshot told.
    line.settle('a', { requests: 2, tokens: 40 }, 100);
    expect(head()).toEqual([20, 100]);
    line.leave('a', 30, 200, true);
    expect(head()).toEqual([10, 200]);
    expect(line.part('a')).toEqual({ requests: 1, tokens: 10 });
    line.leave('a', 10, 300, true);
    expect(line.part('a')).toEqual({ requests: 0, tokens: 0 });
  });

  it('leaves known sizes as they are as long as the made-up ones can make up the difference', () => {
    line.settle('a', { requests: 3, tokens: 60 }, 100);
    line.join('a', 500, 110);
    line.leave('a', 25, 200, false);
    line.leave('a', 500, 300, false);
    expect(line.part('a')).toEqual({ requests: 2, tokens: 35 });
    line.leave('a', 90, 400, false);
    expect(line.part('a')).toEqual({ requests: 1, tokens: 0 });
  });
});

describe('settling by a snapshot', () => {
  it('moves nothing where the two agree: real sizes and the clock stay', () => {
    line.join('a', 10, 100);
    line.join('a', 30, 110);
    line.settle('a', { requests: 2, tokens: 40 }, 500);
    expect(head()).toEqual([10, 100]);
    line.leave('a', 10, 600, false);
    expect(head()).toEqual([30, 600]);
  });

  it('puts requests that were not heard of at the end, with the tokens left over', () => {
    line.join('a', 10, 100);
    line.join('b', 50, 110);
    line.settle('a', { requests: 3, tokens: 31 }, 200);
    expect(head()).toEqual([10, 100]);
    expect(line.part('a')).toEqual({ requests: 3, tokens: 31 });
    line.leave('a', 10, 300, true);
    expect(head()).toEqual([50, 300]);
    line.leave('b', 50, 400, true);
    expect(head()).toEqual([10, 400]);
    line.leave('a', 10, 500, true);
    expect(head()).toEqual([11, 500]);
  });

  it('takes those no longer told of from the front: engines serve in turn', () => {
    for (const tokens of [10, 20, 30]) line.join('a', tokens, 100);
    line.settle('a', { requests: 1, tokens: 30 }, 200);
    expect(head()).toEqual([30, 200]);
  });

  it('shares the tokens out anew where they do not fit the requests known, more or fewer', () => {
    line.join('a', 10, 100);
    line.join('a', 30, 110);
    line.settle('a', { requests: 2, tokens: 101 }, 200);
    expect(head()).toEqual([50, 200]);
    expect(line.part('a')).toEqual({ requests: 2, tokens: 101 });
    // One more, yet fewer tokens than were known before.
    line.settle('a', { requests: 3, tokens: 9 }, 300);
    expect(head()).toEqual([3, 300]);
    expect(line.part('a')).toEqual({ requests: 3, tokens: 9 });
  });

  it('leaves the clock of a head alone whose size that does not change', () => {
    line.join('a', 20, 100);
    line.join('a', 10, 110);
    line.settle('a', { requests: 2, tokens: 41 }, 200);
    expect(head()).toEqual([20, 100]);
  });

  it("leaves the other routers' parts, their place and the clock of a head of theirs alone", () => {
    line.join('b', 70, 100);
    line.join('a', 10, 110);
    line.settle('a', { requests: 4, tokens: 400 }, 200);
    line.settle('a', { requests: 1, tokens: 5 }, 300);
    expect(head()).toEqual([70, 100]);
    expect(line.part('b')).toEqual({ requests: 1, tokens: 70 });
    line.settle('b', { requests: 0, tokens: 0 }, 400);
    expect(head()).toEqual([5, 400]);
  });

  it('empties the part of a router that is gone', () => {
    line.join('a', 10, 100);
    line.join('b', 20, 110);
    line.settle('a', { requests: 0, tokens: 0 }, 200);
    expect([line.length, ...head()]).toEqual([1, 20, 200]);
    line.settle('b', { requests: 0, tokens: 0 }, 300);
    expect([line.length, ...head()]).toEqual([0, 0, 300]);
  });
});

describe('a line longer than anyone needs', () => {
  it('is bounded for each router, whether by events or by snapshots; counts and tokens stay right', () => {
    for (let i = 0; i < 2 * entriesPerRouterMax; i += 1) line.join('a', 7, i);
    line.settle('b', { requests: 1e9, tokens: 1e9 }, 9_000);
    expect(line.length).toBe(2 * entriesPerRouterMax);
    expect(line.part('a')).toEqual({ requests: 2 * entriesPerRouterMax, tokens: 14 * entriesPerRouterMax });
    expect(line.part('b')).toEqual({ requests: 1e9, tokens: 1e9 });
    line.join('b', 5, 9_001);
    expect(line.part('b')).toEqual({ requests: 1e9 + 1, tokens: 1e9 + 5 });
    expect(line.length).toBe(2 * entriesPerRouterMax);
  });

  it('keeps its front: snapshots that tell of all of them move nothing', () => {
    line.join('a', 11, 100);
    for (let i = 0; i < 2 * entriesPerRouterMax; i += 1) line.join('a', 7, 200);
    line.settle('a', line.part('a'), 300);
    expect(head()).toEqual([11, 100]);
  });

  it('gets shorter as its requests go, to nothing', () => {
    const requests = entriesPerRouterMax + 500;
    for (let i = 0; i < requests; i += 1) line.join('a', 7, 0);
    for (let left = requests; left > 0; left -= 1) {
      expect(line.part('a')).toEqual({ requests: left, tokens: 7 * left });
      expect(line.headTokens).toBe(7);
      line.leave('a', 7, 0, true);
    }
    expect(line.length).toBe(0);
  });
});

describe('whatever is told in whatever order', () => {
  const routers = ['', 'a', 'b'];
  const router = fc.constantFrom(...routers);
  const tokens = fc.oneof(fc.nat({ max: 5 }), fc.nat({ max: 1_000_000_000 }));
  const requests = fc.oneof({ weight: 8, arbitrary: fc.nat({ max: 6 }) }, { weight: 1, arbitrary: fc.nat({ max: 3 * entriesPerRouterMax }) });
  const passedMs = fc.nat({ max: 3 });
  const step = fc.oneof(
    { weight: 5, arbitrary: fc.record({ kind: fc.constant('join' as const), router, tokens, passedMs }) },
    { weight: 4, arbitrary: fc.record({ kind: fc.constant('leave' as const), router, tokens, served: fc.boolean(), passedMs }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('settle' as const), router, requests, tokens, passedMs }) },
  );

  it('each router has in line what it told, no more is held than waits, and time does not run backwards', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const tried = new WaitingLine();
        const model = new Map<string, WaitingPart>(routers.map((name) => [name, { requests: 0, tokens: 0 }]));
        let nowMs = 0;
        for (const it of steps) {
          nowMs += it.passedMs;
          const had = model.get(it.router)!;
          const before = tried.headSinceMs;
          if (it.kind === 'join') {
            tried.join(it.router, it.tokens, nowMs);
            model.set(it.router, { requests: had.requests + 1, tokens: had.tokens + it.tokens });
          } else if (it.kind === 'leave') {
            tried.leave(it.router, it.tokens, nowMs, it.served);
            if (had.requests > 0) model.set(it.router, { requests: had.requests - 1, tokens: had.requests === 1 ? 0 : Math.max(0, had.tokens - it.tokens) });
            if (it.served) expect(tried.headSinceMs).toBe(nowMs);
          } else {
            const told = { requests: it.requests, tokens: it.requests === 0 ? 0 : it.tokens };
            tried.settle(it.router, told, nowMs);
            model.set(it.router, told);
          }
          expect(Object.fromEntries(routers.map((name) => [name, tried.part(name)]))).toEqual(Object.fromEntries(model));
          const waiting = [...model.values()].map((part) => Math.min(part.requests, entriesPerRouterMax));
          expect(tried.length).toBeLessThanOrEqual(waiting.reduce((sum, part) => sum + part, 0));
          expect(tried.length > 0).toBe(waiting.some((part) => part > 0));
          expect(tried.headTokens).toBeGreaterThanOrEqual(0);
          if (tried.length === 0) expect(tried.headTokens).toBe(0);
          expect([before, nowMs]).toContain(tried.headSinceMs);
        }
        for (const name of routers) tried.settle(name, { requests: 0, tokens: 0 }, nowMs);
        expect([tried.length, tried.headTokens]).toEqual([0, 0]);
      }),
      { numRuns: 200 },
    );
  });

  it('heard of one by one, all are kept in the order in which they came', () => {
    const known = fc.oneof(fc.record({ kind: fc.constant('join' as const), router }), fc.record({ kind: fc.constant('leave' as const), which: fc.nat(), served: fc.boolean() }));
    fc.assert(
      fc.property(fc.array(known, { maxLength: 60 }), (steps) => {
        const tried = new WaitingLine();
        const model: { readonly router: string; readonly tokens: number }[] = [];
        let sinceMs = 0;
        steps.forEach((it, nowMs) => {
          const first = model[0];
          if (it.kind === 'join') {
            // Sizes tell them apart.
            const made = { router: it.router, tokens: 100 + nowMs };
            model.push(made);
            tried.join(made.router, made.tokens, nowMs);
          } else if (model.length > 0) {
            const [gone] = model.splice(it.which % model.length, 1);
            tried.leave(gone!.router, gone!.tokens, nowMs, it.served);
            if (it.served) sinceMs = nowMs;
          }
          if (model[0] !== first) sinceMs = nowMs;
          expect([tried.length, tried.headTokens, tried.headSinceMs]).toEqual([model.length, model[0]?.tokens ?? 0, sinceMs]);
        });
      }),
      { numRuns: 300 },
    );
  });
});

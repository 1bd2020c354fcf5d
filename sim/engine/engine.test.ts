import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Engine, type EngineEvent } from './engine.ts';
import { decodeMs, type EngineProfile, engineProfiles, prefillMs } from './engine-profiles.ts';
import type { EngineRequest, EngineRequestId } from './sequence.ts';

// Round numbers: a prefill takes as many ms as it has tokens, a decode step 1 ms.
const tiny: EngineProfile = {
  name: 'tiny',
  source: 'test',
  prefill: { quadratic: 0, linear: 1, constant: 0 },
  decode: { constant: 1, linear: 0, quadratic: 0 },
  stepTokensMax: 100,
  sequencesMax: 4,
  queueMax: 2,
  blockTokens: 10,
  blocks: 100,
};

/** A prompt whose content is its own from block `sharedBlocks` on; before it, that of the family. */
function request(id: number, promptTokens: number, outputTokens = 1, sharedBlocks = 0, family = 1): EngineRequest {
  const blocks = Math.floor(promptTokens / tiny.blockTokens);
  const blockHashes = Array.from({ length: blocks }, (_, index) => (index < sharedBlocks ? family : 1000 + id) * 1000 + index);
  return { id, promptTokens, outputTokens, blockHashes };
}

/** Runs until idle, from event to event, as a driver would. */
function drain(engine: Engine): EngineEvent[] {
  const events: EngineEvent[] = [];
  for (let atMs = engine.nextEventMs(); atMs !== undefined; atMs = engine.nextEventMs()) events.push(...engine.advance(atMs));
  return events;
}

function times(events: readonly EngineEvent[], kind: EngineEvent['kind']): [EngineRequestId, number][] {
  return events.filter((event) => event.kind === kind).map((event) => [event.id, event.atMs]);
}

function cachedTokens(events: readonly EngineEvent[], id: EngineRequestId): number {
  const done = events.find((event) => event.kind === 'done' && event.id === id);
  if (done?.kind !== 'done') throw new Error(`request ${id} is not done`);
  return done.cachedTokens;
}

describe('steps', () => {
  it('brings the first token after prefill, the rest at one per decode step', () => {
    const engine = new Engine(tiny, { tokenEvents: true });
    expect(engine.submit(request(1, 50, 3), 1000)).toBe('queued');
    expect(engine.nextEventMs()).toBe(1000);
    expect(drain(engine)).toEqual([
      { kind: 'first-token', id: 1, atMs: 1050, submittedMs: 1000, cachedTokens: 0 },
      { kind: 'token', id: 1, atMs: 1051 },
      { kind: 'token', id: 1, atMs: 1052 },
      {
        kind: 'done', id: 1, atMs: 1052, submittedMs: 1000, scheduledMs: 1000, firstTokenMs: 1050, promptTokens: 50, cachedTokens: 0, outputTokens: 3,
      },
    ]);
    expect(engine.nextEventMs()).toBeUndefined();
    expect(engine.stats).toMatchObject({ running: 0, waiting: 0, blocksHeld: 0, steps: 3, generatedTokens: 3, prefilledTokens: 50, busyMs: 52 });
  });

  it('follows the profile: prefill and decode times add up when both are in a step', () => {
    const profile = engineProfiles['dynamo-mocker'];
    const engine = new Engine(profile);
    engine.submit({ id: 'long', promptTokens: 1000, outputTokens: 100, blockHashes: [] }, 0);
    engine.advance(0);
    engine.submit({ id: 'late', promptTokens: 500, outputTokens: 1, blockHashes: [] }, 1);
    const firstMs = prefillMs(profile, 1000);
    // 1001: the long prompt and its first token are context while the late prompt prefills.
    expect(times(drain(engine), 'first-token')).toEqual([
      ['long', firstMs],
      ['late', firstMs + (prefillMs(profile, 500) + decodeMs(profile, 1001))],
    ]);
  });

  it('keeps to its token budget, decodes first: a long prompt goes in chunks', () => {
    const engine = new Engine(tiny);
    engine.submit(request(1, 10, 500), 0);
    engine.advance(10); // decoding from here on
    engine.submit(request(2, 250, 1), 10);
    // 1 budget token is the decode's: chunks of 99, 99, 52; each step also 1 ms of decode. The step begun at 10 has no prefill: 11.
    const chunks: number[] = [];
    for (const atMs of [11, 111, 211]) {
      engine.advance(atMs);
      chunks.push(engine.stats.prefilledTokens - 10);
    }
    expect(chunks).toEqual([99, 198, 250]);
    expect(times(engine.advance(11 + 100 + 100 + 53), 'first-token')).toEqual([[2, 11 + 100 + 100 + 53]]);
  });

  it('shares one step between prompts that fit its budget, and passes the rest on', () => {
    const engine = new Engine(tiny);
    engine.submit(request(1, 40), 0);
    engine.submit(request(2, 40), 0);
    engine.submit(request(3, 40), 0);
    expect(times(drain(engine), 'first-token')).toEqual([[1, 100], [2, 100], [3, 120]]);
  });

  it('runs in order of arrival, at most sequencesMax at once', () => {
    const engine = new Engine({ ...tiny, sequencesMax: 2 });
    for (const id of [1, 2, 3, 4]) engine.submit(request(id, 10, 11), id === 4 ? 0.5 : 0);
    engine.advance(1);
    expect(engine.stats).toMatchObject({ running: 2, waiting: 2 });
    const events = drain(engine);
    expect(times(events, 'first-token').map(([id]) => id)).toEqual([1, 2, 3, 4]);
    // 20 ms prefill and 10 decodes, then the same again.
    expect(times(events, 'done')).toEqual([[1, 30], [2, 30], [3, 60], [4, 60]]);
  });

  it('bounds its queue: sequences and waiting places, no more', () => {
    const engine = new Engine(tiny);
    const results = Array.from({ length: 8 }, (_, index) => engine.submit(request(index, 10), 0));
    expect(results).toEqual([...new Array<string>(6).fill('queued'), 'queue-full', 'queue-full']);
    expect(engine.stats.rejected).toBe(2);
    drain(engine);
    expect(engine.submit(request(9, 10), 1000)).toBe('queued');
  });

  it('refuses what can never fit, and callers who break the contract', () => {
    const engine = new Engine(tiny);
    expect(engine.submit(request(1, 1000, 1), 0)).toBe('too-long');
    expect(engine.submit(request(1, 999, 1), 0)).toBe('queued');
    expect(() => engine.submit(request(1, 10), 0)).toThrow('already in flight');
    expect(() => engine.submit(request(2, 0), 0)).toThrow('promptTokens');
    expect(() => engine.submit(request(2, 1, 0), 0)).toThrow('outputTokens');
    engine.advance(5);
    expect(() => engine.advance(4)).toThrow('time went backwards: 4 after 5');
    expect(() => engine.advance(NaN)).toThrow('time went backwards');
    expect(() => new Engine({ ...tiny, stepTokensMax: 4 })).toThrow('stepTokensMax');
  });

  it('slows down by a factor from the next step on', () => {
    const engine = new Engine(tiny);
    engine.submit(request(1, 50, 3), 0);
    engine.advance(0);
    engine.slowFactor = 4;
    expect(times(drain(engine), 'done')).toEqual([[1, 58]]);
    expect(() => (engine.slowFactor = 0)).toThrow('slowFactor');
  });

  it('gives the same events whether advanced step by step or in one go', () => {
    const run = (stride: number): EngineEvent[] => {
      const engine = new Engine(tiny, { tokenEvents: true });
      const events: EngineEvent[] = [];
      for (let id = 0; id < 6; id += 1) engine.submit(request(id, 35 + id, 5), id * 7);
      for (let atMs = 36; atMs < 500; atMs += stride) events.push(...engine.advance(atMs));
      return events;
    };
    expect(run(0.25)).toEqual(run(400));
    expect(run(400)).toHaveLength(6 * 6);
  });
});

describe('prefix cache', () => {
  it('reuses whole blocks of an earlier prompt, and only computes the rest', () => {
    const engine = new Engine(tiny);
    engine.submit(request(1, 85, 1, 6), 0);
    drain(engine);
    engine.submit(request(2, 95, 1, 6), 1000);
    const events = drain(engine);
    expect(cachedTokens(events, 2)).toBe(60);
    expect(times(events, 'first-token')).toEqual([[2, 1035]]);
    expect(engine.stats).toMatchObject({ queriedTokens: 180, cachedTokens: 60, prefilledTokens: 120 });
  });

  it('always computes at least one token: an identical prompt of whole blocks reuses all but the last block', () => {
    const engine = new Engine(tiny);
    engine.submit(request(1, 50, 1, 5), 0);
    drain(engine);
    engine.submit(request(2, 50, 1, 5), 100);
    engine.submit(request(3, 51, 1, 5), 100);
    const events = drain(engine);
    expect(cachedTokens(events, 2)).toBe(40);
    expect(cachedTokens(events, 3)).toBe(50);
  });

  it('lets a prompt of the same step reuse what was scheduled before it', () => {
    const engine = new Engine(tiny);
    engine.submit(request(1, 40, 1, 3), 0);
    engine.submit(request(2, 40, 1, 3), 0);
    const events = drain(engine);
    expect(cachedTokens(events, 2)).toBe(30);
    expect(times(events, 'first-token')).toEqual([[1, 50], [2, 50]]);
  });

  it('evicts the prefix used longest ago, its tail first', () => {
    const engine = new Engine({ ...tiny, blocks: 20 });
    engine.submit(request(1, 100, 1, 10, 1), 0); // family 1: 10 blocks
    drain(engine);
    engine.submit(request(2, 80, 1, 8, 2), 1000); // family 2: 8 blocks; 2 of 20 blocks left
    drain(engine);
    engine.submit(request(3, 50, 1), 2000); // 5 blocks: 2 empty, 3 from family 1's tail
    drain(engine);
    expect(engine.stats.evictions).toBe(3);
    // 7 of its 10 blocks are left, and must be reused before the rest is allocated.
    engine.submit(request(4, 101, 1, 10, 1), 3000);
    expect(cachedTokens(drain(engine), 4)).toBe(70);
  });

  it('counts a prefix as used when it is reused', () => {
    const engine = new Engine({ ...tiny, blocks: 20 });
    engine.submit(request(1, 91, 1, 9, 1), 0);
    drain(engine);
    engine.submit(request(2, 91, 1, 9, 2), 1000);
    drain(engine);
    engine.submit(request(3, 91, 1, 9, 1), 2000); // family 1 again: now family 2 is the older one
    expect(cachedTokens(drain(engine), 3)).toBe(90);
    engine.submit(request(4, 50, 1), 3000);
    drain(engine);
    engine.submit(request(5, 91, 1, 9, 1), 4000);
    expect(cachedTokens(drain(engine), 5)).toBe(90);
  });

  it('finds a generated answer again where its hashes are known', () => {
    const engine = new Engine(tiny);
    // 25 prompt tokens, 20 generated: block 2 straddles, block 3 is generated; the 45th token never enters memory.
    engine.submit({ id: 1, promptTokens: 25, outputTokens: 20, blockHashes: [1, 2], outputBlockHashes: [3, 4] }, 0);
    drain(engine);
    engine.submit({ id: 2, promptTokens: 60, outputTokens: 1, blockHashes: [1, 2, 3, 4, 5, 6] }, 1000);
    expect(cachedTokens(drain(engine), 2)).toBe(40);
  });

  it('ignores hashes past the last whole block of the prompt', () => {
    const engine = new Engine(tiny);
    engine.submit({ id: 1, promptTokens: 25, outputTokens: 20, blockHashes: [1, 2, 3] }, 0);
    drain(engine);
    engine.submit({ id: 2, promptTokens: 60, outputTokens: 1, blockHashes: [1, 2, 3, 4, 5, 6] }, 1000);
    expect(cachedTokens(drain(engine), 2)).toBe(20);
  });
});

describe('memory', () => {
  it('admits a prompt only when all of it fits, and nobody overtakes it', () => {
    const engine = new Engine({ ...tiny, blocks: 20 });
    engine.submit(request(1, 100, 50), 0);
    engine.advance(100);
    engine.submit(request(2, 150, 1), 100);
    engine.submit(request(3, 10, 1), 100);
    engine.advance(120);
    expect(engine.stats).toMatchObject({ running: 1, waiting: 2 });
    expect(times(drain(engine), 'first-token').map(([id]) => id)).toEqual([2, 3]);
  });

  it('takes a block for every blockTokens generated', () => {
    const engine = new Engine(tiny);
    engine.submit(request(1, 20, 40), 0);
    engine.advance(20);
    // Two prompt blocks; the step begun at 20 writes the first generated token into a third.
    expect(engine.stats.blocksHeld).toBe(3);
    engine.advance(29.5);
    expect(engine.stats.blocksHeld).toBe(3);
    engine.advance(30);
    expect(engine.stats.blocksHeld).toBe(4);
  });

  it('preempts the youngest sequence when a decode finds no block; it resumes first and loses no token', () => {
    const engine = new Engine({ ...tiny, blocks: 10 }, { tokenEvents: true });
    engine.submit(request(1, 40, 30), 0);
    engine.submit(request(2, 40, 30), 0);
    engine.submit(request(3, 10, 1), 1);
    const events = drain(engine);
    expect(engine.stats).toMatchObject({ preemptions: 1, blocksHeld: 0, finished: 3 });
    // 2 goes on when 1 is done, and 3, one block short until then, comes with it; nobody overtook.
    expect(times(events, 'done').map(([id]) => id)).toEqual([1, 3, 2]);
    const [[, firstDoneMs]] = times(events, 'done') as [[number, number]];
    expect(times(events, 'first-token').find(([id]) => id === 3)![1]).toBeGreaterThan(firstDoneMs);
    for (const id of [1, 2]) {
      expect(events.filter((event) => event.id === id && event.kind === 'first-token')).toHaveLength(1);
      expect(events.filter((event) => event.id === id && event.kind === 'token')).toHaveLength(29);
    }
  });

  it('cancels at any stage, freeing blocks and sequence at once', () => {
    const engine = new Engine({ ...tiny, sequencesMax: 2 });
    engine.submit(request(1, 10, 100), 0);
    engine.advance(10); // decoding
    engine.submit(request(2, 250, 5), 10);
    engine.submit(request(3, 30, 5), 10);
    engine.advance(11); // 2 is in the middle of its prefill, 3 waits
    expect(engine.stats).toMatchObject({ running: 2, waiting: 1, blocksHeld: 2 + 25 });

    expect(engine.cancel(3, 12)).toBe(true);
    expect(engine.stats.waiting).toBe(0);
    expect(engine.cancel(2, 12)).toBe(true);
    expect(engine.stats).toMatchObject({ running: 1, blocksHeld: 2 });
    expect(engine.cancel(1, 12)).toBe(true);
    expect(engine.stats).toMatchObject({ running: 0, blocksHeld: 0, cancelled: 3 });
    expect(engine.cancel(1, 12)).toBe(false);
    // The step that ran ends, in silence, and the engine is whole.
    expect(drain(engine)).toEqual([]);
    engine.submit(request(4, 20, 2), 1000);
    expect(times(drain(engine), 'done')).toEqual([[4, 1021]]);
  });

  it('forgets a request cancelled before its first step', () => {
    const engine = new Engine(tiny);
    engine.submit(request(1, 10, 1), 0);
    expect(engine.cancel(1, 0)).toBe(true);
    expect(engine.nextEventMs()).toBeUndefined();
    expect(engine.advance(100)).toEqual([]);
    expect(engine.stats).toMatchObject({ steps: 0, cancelled: 1 });
  });

  it('a cancelled sequence lets the queue move on', () => {
    const engine = new Engine({ ...tiny, sequencesMax: 1 });
    engine.submit(request(1, 10, 500), 0);
    engine.submit(request(2, 10, 1), 0);
    engine.advance(50);
    engine.cancel(1, 50.5);
    expect(times(drain(engine), 'done')).toEqual([[2, 61]]);
  });

  it('answers every request once, in order, and leaks nothing, whatever comes', () => {
    const action = fc.record({
      gapMs: fc.nat(60),
      promptTokens: fc.integer({ min: 1, max: 130 }),
      outputTokens: fc.integer({ min: 1, max: 40 }),
      sharedBlocks: fc.nat(10),
      family: fc.integer({ min: 1, max: 3 }),
      cancelAfterMs: fc.option(fc.nat(100), { nil: undefined }),
    });
    fc.assert(
      fc.property(fc.array(action, { maxLength: 40 }), (actions) => {
        const engine = new Engine({ ...tiny, blocks: 20, queueMax: 10 }, { tokenEvents: true });
        const calls: { atMs: number; call: () => void }[] = [];
        const queued = new Map<EngineRequestId, EngineRequest>();
        const cancelled = new Set<EngineRequestId>();
        const events: EngineEvent[] = [];
        let atMs = 0;
        actions.forEach((act, id) => {
          const submitMs = (atMs += act.gapMs);
          const prompt = request(id, act.promptTokens, act.outputTokens, act.sharedBlocks, act.family);
          calls.push({
            atMs: submitMs,
            call: () => {
              if (engine.submit(prompt, submitMs) === 'queued') queued.set(id, prompt);
            },
          });
          if (act.cancelAfterMs === undefined) return;
          const cancelMs = submitMs + act.cancelAfterMs;
          calls.push({
            atMs: cancelMs,
            call: () => {
              if (engine.cancel(id, cancelMs)) cancelled.add(id);
            },
          });
        });
        calls.sort((a, b) => a.atMs - b.atMs);
        for (const { atMs: callMs, call } of calls) {
          call();
          events.push(...engine.advance(callMs));
          const { blocksHeld, blocks, running } = engine.stats;
          expect(blocksHeld).toBeLessThanOrEqual(blocks);
          expect(running).toBeLessThanOrEqual(tiny.sequencesMax);
        }
        events.push(...drain(engine));

        let lastMs = 0;
        const tokens = new Map<EngineRequestId, number>();
        const done = new Set<EngineRequestId>();
        for (const event of events) {
          expect(event.atMs).toBeGreaterThanOrEqual(lastMs);
          lastMs = event.atMs;
          expect(done.has(event.id)).toBe(false);
          const before = tokens.get(event.id) ?? 0;
          if (event.kind === 'done') {
            expect(before).toBe(queued.get(event.id)!.outputTokens);
            done.add(event.id);
          } else {
            expect(event.kind).toBe(before === 0 ? 'first-token' : 'token');
            tokens.set(event.id, before + 1);
          }
        }
        for (const id of queued.keys()) expect(done.has(id)).toBe(!cancelled.has(id));
        const { running, waiting, blocksHeld, finished } = engine.stats;
        expect({ running, waiting, blocksHeld, finished }).toEqual({ running: 0, waiting: 0, blocksHeld: 0, finished: done.size });
      }),
      { numRuns: 200 },
    );
  });
});

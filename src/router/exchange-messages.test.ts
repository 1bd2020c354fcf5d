import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { HealthRow } from '../fleet/health-row.ts';
import type { LoadEvent, PoolLoad } from '../fleet/shared-state.ts';
import { encodeEvents, encodeReports, encodeSnapshot, type ForwardedCompletion, parsePoolMessage, parseReports } from './exchange-messages.ts';
import type { CompletionSignal, Ending } from './ports.ts';

const keyId = '0123456789abcdef0123456789abcdef';
const address = '10.0.0.1:80';

/** A snapshot as some other program might write it. */
const snapshot = (changes: { version?: unknown; router?: unknown; sequence?: unknown; pushes?: unknown; rows?: unknown } = {}): string => {
  const { version, router, sequence, pushes, rows } = { version: 2, router: 'a', sequence: 1, pushes: 1, rows: [[address, 1, 2, 1, 2]], ...changes };
  return JSON.stringify([version, router, sequence, 's', pushes, rows]);
};
const events = (rows: unknown): string => JSON.stringify([2, 'a', 1, 'e', rows]);

/** A trail of blocks, all 0, as some other program might write it. */
const blocks = (count: number): string => Buffer.alloc(7 * count).toString('base64');

const counts = fc.integer({ min: 0, max: 1_000_000_000 });
const addresses = fc.oneof(fc.ipV4().map((ip) => `${ip}:80`), fc.ipV6().map((ip) => `[${ip}]:8000`));
const keyIds = fc.array(fc.integer({ min: 0, max: 15 }), { minLength: 32, maxLength: 32 }).map((digits) => digits.map((digit) => digit.toString(16)).join(''));
const routers = fc.stringMatching(/^[\w-]{1,60}$/);
const sequences = fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER });
/** Chained hashes as the scanner makes them: whole numbers of 53 bits. */
const hashes = fc.oneof(fc.maxSafeNat(), fc.constantFrom(0, 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 52, 2 ** 53 - 1));
const trails = fc.oneof({ weight: 20, arbitrary: fc.array(hashes, { maxLength: 20 }) }, { weight: 1, arbitrary: fc.array(hashes, { minLength: 510, maxLength: 512 }) });
const loadEvents = (pool: string): fc.Arbitrary<LoadEvent> =>
  fc.oneof(
    fc
      .record({
        keyId: fc.option(keyIds, { nil: undefined }),
        address: addresses,
        promptTokens: counts,
        uncachedTokens: counts,
        prefixHashes: fc.option(trails, { nil: undefined }),
        // Whether the session moved, where there is one.
        away: fc.option(fc.boolean(), { nil: undefined }),
      })
      .map(({ keyId, prefixHashes, away, ...sizes }): LoadEvent => ({
        kind: 'dispatch',
        pool,
        ...sizes,
        placement: keyId !== undefined && away !== undefined ? { keyId, away } : undefined,
        cached: prefixHashes && { keyId, prefixHashes },
      })),
    fc.record({ kind: fc.constant('first-token' as const), pool: fc.constant(pool), address: addresses, uncachedTokens: counts }),
    fc.record({ kind: fc.constant('done' as const), pool: fc.constant(pool), address: addresses, promptTokens: counts, uncachedTokens: counts, waiting: fc.boolean() }),
  );
const loads: fc.Arbitrary<PoolLoad> = fc
  .array(fc.tuple(addresses, fc.record({ requests: counts, promptTokens: counts, requestsWaiting: counts, uncachedTokensWaiting: counts })), { maxLength: 20 })
  .map((entries) => new Map(entries));

describe('pool messages', () => {
  it('a snapshot reads as it was written', () => {
    fc.assert(
      fc.property(routers, sequences, loads, fc.boolean(), (router, sequence, written, pushes) => {
        expect(parsePoolMessage('chat', encodeSnapshot(router, sequence, written, pushes))).toEqual({ kind: 'snapshot', router, sequence, loads: written, pushes });
      }),
    );
  });

  it('what was read of model servers arrives with its age, whatever the clocks say', () => {
    const told = fc.record({
      ageMs: fc.nat({ max: 600_000 }),
      requestsRunning: fc.option(fc.double({ min: 0, max: 1e12, noNaN: true }), { nil: undefined }),
      requestsQueued: fc.option(fc.nat(), { nil: undefined }),
      kvUsage: fc.option(fc.double({ min: 0, max: 1, noNaN: true }), { nil: undefined }),
      kvTokensMax: fc.option(fc.nat(), { nil: undefined }),
      adapters: fc.option(fc.array(fc.string({ minLength: 1, maxLength: 256 }), { maxLength: 8 }).map((names) => new Set(names)), { nil: undefined }),
      adaptersMax: fc.option(fc.nat(), { nil: undefined }),
    });
    fc.assert(
      fc.property(fc.dictionary(addresses, told, { maxKeys: 10 }), fc.nat({ max: 1e9 }), (dictionary, nowMs) => {
        const written = Object.entries(dictionary);
        const read = new Map(written.map(([at, { ageMs, ...rest }]) => [at, { scrapedMs: nowMs - ageMs, ...rest }]));
        // JSON has no −0.
        const positive = (value: unknown): unknown => (Object.is(value, -0) ? 0 : value);
        const expected = written.map(([at, each]) => [at, Object.fromEntries(Object.entries(each).map(([key, value]) => [key, positive(value)]))]);
        const message = parsePoolMessage('chat', encodeSnapshot('a', 1, new Map(), true, { read, nowMs }));
        expect([...((message?.kind === 'snapshot' && message.metrics) || [])]).toEqual(expected);
      }),
    );
  });

  it('metrics that are nonsense are left out, number by number and row by row, and the loads count', () => {
    const rows = [
      'x',
      [],
      ['10.0.0.3:80', -1, 1],
      ['10.0.0.4:80', 600_001, 1],
      ['a'.repeat(65), 0, 1],
      ['10.0.0.5:80', 20, '1', -1, 1.5, 1e13, null, ['ok', '', 7, 'x'.repeat(257)]],
      ['10.0.0.6:80', 20, 1, null, 0.5, null, null, Array.from({ length: 257 }, (_, i) => `a${i}`)],
    ];
    const text = JSON.stringify([2, 'a', 1, 's', 1, [[address, 1, 2, 1, 2]], rows]);
    const unknown = { requestsRunning: undefined, requestsQueued: undefined, kvUsage: undefined, kvTokensMax: undefined, adapters: undefined, adaptersMax: undefined };
    expect(parsePoolMessage('chat', text)).toMatchObject({
      loads: new Map([[address, { requests: 1 }]]),
      metrics: new Map<string, object>([
        ['10.0.0.5:80', { ...unknown, ageMs: 20, adapters: new Set(['ok']) }],
        ['10.0.0.6:80', { ...unknown, ageMs: 20, requestsRunning: 1, kvUsage: 0.5 }],
      ]),
    });
    for (const metrics of [null, 7, 'x', {}, Array.from({ length: 20_001 }, () => [])]) {
      const message = JSON.stringify([2, 'a', 1, 's', 1, [], metrics]);
      expect(parsePoolMessage('chat', message)).toMatchObject({ kind: 'snapshot', metrics: new Map() });
    }
  });

  it('events read as they were written, for the pool of the channel', () => {
    fc.assert(
      fc.property(routers, sequences, fc.array(loadEvents('chat'), { maxLength: 20 }), (router, sequence, written) => {
        expect(parsePoolMessage('chat', encodeEvents(router, sequence, written))).toEqual({ kind: 'events', router, sequence, events: written });
      }),
    );
  });

  it('a router that has spoken for years is still understood', () => {
    // 500 messages a second reach 2⁵³ in half a million years, but a thousand million in three weeks.
    for (const sequence of [1e9, 1e9 + 1, 1e12, Number.MAX_SAFE_INTEGER]) {
      expect(parsePoolMessage('chat', encodeSnapshot('a', sequence, new Map(), true))).toMatchObject({ sequence });
      expect(parsePoolMessage('chat', encodeEvents('a', sequence, []))).toMatchObject({ sequence });
    }
  });

  it('a load beyond all bounds is told as the bound: one absurd request must not silence its router', () => {
    const absurd = { requests: 3, promptTokens: 2.5e14, requestsWaiting: 1, uncachedTokensWaiting: 1e300 };
    expect(parsePoolMessage('chat', encodeSnapshot('a', 1, new Map([[address, absurd]]), true))).toMatchObject({
      loads: new Map([[address, { requests: 3, promptTokens: 1e9, requestsWaiting: 1, uncachedTokensWaiting: 1e9 }]]),
    });
    const dispatch: LoadEvent = { kind: 'dispatch', pool: 'chat', address, promptTokens: 2.5e14, uncachedTokens: 1e12, placement: undefined, cached: undefined };
    expect(parsePoolMessage('chat', encodeEvents('a', 1, [dispatch]))).toMatchObject({ events: [{ promptTokens: 1e9, uncachedTokens: 1e9 }] });
  });

  it('a trail longer than readers take is told as far as they take it', () => {
    const prefixHashes = Array.from({ length: 600 }, (_, i) => 2 ** 53 - 1 - i);
    const dispatch: LoadEvent = { kind: 'dispatch', pool: 'chat', address, promptTokens: 1, uncachedTokens: 1, placement: undefined, cached: { keyId, prefixHashes } };
    expect(parsePoolMessage('chat', encodeEvents('a', 1, [dispatch]))).toMatchObject({ events: [{ cached: { keyId, prefixHashes: prefixHashes.slice(0, 512) } }] });
  });

  it('a number that is none is told as nothing', () => {
    const odd = { requests: NaN, promptTokens: -5, requestsWaiting: -Infinity, uncachedTokensWaiting: 1.6 };
    expect(parsePoolMessage('chat', encodeSnapshot('a', 1, new Map([[address, odd]]), true))).toMatchObject({
      loads: new Map([[address, { requests: 0, promptTokens: 0, requestsWaiting: 0, uncachedTokensWaiting: 2 }]]),
    });
  });

  const refused: Readonly<Record<string, string>> = {
    nothing: '',
    'no JSON': '{',
    'cut off': snapshot().slice(0, -3),
    'no list': '{"0":1,"1":"a","2":1,"3":"s"}',
    null: 'null',
    'an empty list': '[]',
    'another version': snapshot({ version: 1 }),
    'a version in text': snapshot({ version: '2' }),
    'an unnamed router': snapshot({ router: '' }),
    'a router of 81 letters': snapshot({ router: 'r'.repeat(81) }),
    'a router with a line break': snapshot({ router: 'a\nb' }),
    'a router that is no text': snapshot({ router: ['a'] }),
    'a negative sequence': snapshot({ sequence: -1 }),
    'a sequence with a fraction': snapshot({ sequence: 1.5 }),
    'a sequence past what numbers can tell apart': snapshot({ sequence: 2 ** 53 }),
    'a sequence in text': snapshot({ sequence: '1' }),
    'another kind': JSON.stringify([2, 'a', 1, 'q', 1, []]),
    'a kind of the prototype': JSON.stringify([2, 'a', 1, '__proto__', 1, []]),
    'rows that are no list': snapshot({ rows: { length: 0 } }),
    'a row that is no list': snapshot({ rows: ['x'] }),
    'a short row': snapshot({ rows: [[address, 1, 2, 1]] }),
    'an empty address': snapshot({ rows: [['', 1, 2, 1, 2]] }),
    'an address of 65 letters': snapshot({ rows: [['a'.repeat(65), 1, 2, 1, 2]] }),
    'negative requests': snapshot({ rows: [[address, -1, 2, 1, 2]] }),
    'half a request': snapshot({ rows: [[address, 0.1, 2, 1, 2]] }),
    'tokens past the bound': snapshot({ rows: [[address, 1, 1e9 + 1, 1, 2]] }),
    'waiting requests past the bound': snapshot({ rows: [[address, 1, 2, 1e9 + 1, 2]] }),
    'half a token waiting': snapshot({ rows: [[address, 1, 2, 1, 0.5]] }),
    'tokens past all numbers': `[2,"a",1,"s",1,[["${address}",1,1e999,1,2]]]`,
    'tokens that are null': snapshot({ rows: [[address, 1, null, 1, 2]] }),
    'more rows than anyone has endpoints': snapshot({ rows: Array.from({ length: 20_001 }, () => [address, 1, 2, 1, 2]) }),
    'more text than anyone has to say': snapshot({ rows: [] }) + ' '.repeat(4_000_000),
    'an event of another kind': events([['q', address, 1, 1]]),
    'an event of the prototype': events([['constructor', address, 1, 1]]),
    'an event that is no list': events([{}]),
    'events that are no list': events('d'),
    'an event without tokens': events([['d', address]]),
    'a dispatch without its uncached tokens': events([['d', address, 1]]),
    'an end without its uncached tokens': events([['x', address, 1]]),
    'an event of less than nothing': events([['x', address, -1, 1, 1]]),
    'less than nothing uncached': events([['x', address, 1, -1, 1]]),
    'an event with a fraction of a token': events([['f', address, 0.5]]),
    'a placement that is no keyed hash': events([['d', address, 1, 1, 'my-session-id', 1]]),
    'a placement in capitals': events([['d', address, 1, 1, keyId.toUpperCase(), 1]]),
    'a trail without a keyed hash or a 0 for none': events([['d', address, 1, 1, null, 0, '']]),
    'a trail that is no text': events([['d', address, 1, 1, 0, 0, [1, 2]]]),
    'a trail that is null': events([['d', address, 1, 1, 0, 0, null]]),
    'a trail cut inside a block': events([['d', address, 1, 1, 0, 0, blocks(7).slice(0, -4)]]),
    'a trail with a byte too many': events([['d', address, 1, 1, 0, 0, Buffer.alloc(8).toString('base64')]]),
    'a trail in another alphabet': events([['d', address, 1, 1, 0, 0, '!'.repeat(28)]]),
    'a trail with a line break': events([['d', address, 1, 1, 0, 0, `${blocks(3)}\n`]]),
    'a trail with a block of more than 53 bits': events([['d', address, 1, 1, 0, 0, Buffer.from([0, 0, 0, 0, 0, 0, 0x20]).toString('base64')]]),
    'a trail of 513 blocks': events([['d', address, 1, 1, 0, 0, blocks(513)]]),
    'one bad event among good ones': events([['d', address, 1, 1], ['d', address, -1, 1]]),
  };
  for (const [name, text] of Object.entries(refused)) {
    it(`refuses ${name}`, () => {
      expect(parsePoolMessage('chat', text)).toBeUndefined();
    });
  }

  it('the good ones that these were made from are taken', () => {
    expect(parsePoolMessage('chat', snapshot())).toMatchObject({ kind: 'snapshot', router: 'a' });
    expect(parsePoolMessage('chat', snapshot({ router: 'r'.repeat(80), rows: Array.from({ length: 20_000 }, () => [address, 1, 2, 1, 2]) }))).toBeDefined();
    expect(parsePoolMessage('chat', events([['d', address, 1, 1], ['d', address, 1, 1, keyId, 2], ['f', address, 1], ['x', address, 1, 1, 0]]))).toMatchObject({
      events: [{ kind: 'dispatch', placement: undefined, cached: undefined }, { placement: { keyId, away: false } }, { kind: 'first-token' }, { kind: 'done', waiting: false }],
    });
    expect(parsePoolMessage('chat', events([['d', address, 1, 1, 0, 0, blocks(512)], ['d', address, 1, 1, keyId, 0, '']]))).toMatchObject({
      events: [
        { placement: undefined, cached: { keyId: undefined, prefixHashes: new Array<number>(512).fill(0) } },
        { placement: undefined, cached: { keyId, prefixHashes: [] } },
      ],
    });
  });

  it('names of the prototype are names like any other', () => {
    const message = parsePoolMessage('__proto__', snapshot({ router: '__proto__', rows: [['constructor', 1, 2, 1, 2], ['__proto__', 4, 5, 3, 4]] }));
    expect(message).toMatchObject({ router: '__proto__' });
    expect(message?.kind === 'snapshot' && [...message.loads.keys()]).toEqual(['constructor', '__proto__']);
    expect(({} as { requests?: number }).requests).toBeUndefined();
  });

  it('never throws, whatever the text', () => {
    const jsonLike = fc.oneof(fc.string(), fc.json(), fc.jsonValue().map((value) => JSON.stringify([2, 'a', 1, 's', 1, value])), fc.jsonValue().map((value) => events([value])));
    fc.assert(
      fc.property(jsonLike, (text) => {
        parsePoolMessage('chat', text);
        parseReports(text);
      }),
      { numRuns: 500 },
    );
    expect(parsePoolMessage('chat', '['.repeat(1_000_000))).toBeUndefined();
  });
});

describe('forwarded reports', () => {
  const endings: Ending[] = ['finished', 'client-abort', 'upstream-failure', 'not-proxied', 'stream-error', 'expired'];
  const signals: CompletionSignal[] = ['access-log', 'response-phases', 'ext-proc', 'timer'];
  const reports: fc.Arbitrary<ForwardedCompletion> = fc.record({
    lease: fc.tuple(routers, fc.nat()).map(([router, n]) => `${router}.${n}`),
    completion: fc.record({
      ending: fc.constantFrom(...endings),
      signal: fc.constantFrom(...signals),
      status: fc.option(fc.integer({ min: 100, max: 599 }), { nil: undefined }),
      firstByteMs: fc.option(fc.double({ min: 0, max: 1e8, noNaN: true }), { nil: undefined }),
      servedBy: fc.option(addresses, { nil: undefined }),
      answerMs: fc.option(fc.double({ min: 0, max: 1e8, noNaN: true }), { nil: undefined }),
      responseBytes: fc.option(counts, { nil: undefined }),
      attempts: fc.option(fc.nat({ max: 10 }), { nil: undefined }),
    }),
  });

  const message = (rows: unknown, changes: Record<number, unknown> = {}): string => JSON.stringify(Object.assign([2, 'a', 7, rows, []], changes));

  it('read as they were written', () => {
    fc.assert(
      fc.property(routers, counts, fc.array(reports, { maxLength: 10 }), fc.array(counts, { maxLength: 10 }), (router, number, written, received) => {
        const text = { router, number, reports: written, received };
        expect(parseReports(encodeReports(text))).toEqual(text);
      }),
    );
  });

  it('what is malformed is left out, the rest counts', () => {
    const good = ['a.1', 'finished', 'access-log', 200, 1.5, address];
    const rows = [
      'x',
      [],
      good,
      ['a b', 'finished', 'access-log'],
      ['a.2', 'toString', 'access-log'],
      ['a.3', '__proto__', 'access-log'],
      ['a.4', 'finished', 'constructor'],
      ['l'.repeat(129), 'finished', 'access-log'],
    ];
    expect(parseReports(message(rows, { 4: [3, -1, 'x', null, 4] }))).toEqual({
      router: 'a',
      number: 7,
      reports: [{ lease: 'a.1', completion: { ending: 'finished', signal: 'access-log', status: 200, firstByteMs: 1.5, servedBy: address } }],
      received: [3, 4],
    });
  });

  it('details that are nonsense are not told on', () => {
    const text = message([['a.1', 'finished', 'access-log', -200, 'soon', 'a'.repeat(65), -1, 'much', 1.5]]);
    expect(parseReports(text)?.reports).toEqual([{ lease: 'a.1', completion: { ending: 'finished', signal: 'access-log', status: undefined, firstByteMs: undefined, servedBy: undefined } }]);
  });

  it('what is no such message holds no reports', () => {
    const many = Array.from({ length: 20_001 }, () => ['a.1', 'finished', 'access-log']);
    const changed: Record<number, unknown>[] = [{ 0: 1 }, { 1: 'a b' }, { 1: 7 }, { 2: -1 }, { 2: '7' }, { 3: {} }, { 4: null }, { 4: many.map(() => 1) }];
    for (const text of ['', '{}', 'null', '"x"', '[', '[]', message(many), ...changed.map((change) => message([], change))]) {
      expect([text.slice(0, 40), parseReports(text)]).toEqual([text.slice(0, 40), undefined]);
    }
    expect(parseReports(message([]))).toBeDefined();
  });
});

describe('words on endpoints’ health', () => {
  const row: HealthRow = { address: '10.0.0.1:80', aspect: 'breaker', version: 4, by: 'router-b', value: 'open', ms: 900, strikes: 1, cause: 'failures', detail: 'last: status 500' };

  it('travel as events, and in snapshots with or without metrics', () => {
    expect(parsePoolMessage('chat', encodeEvents('a', 7, [{ kind: 'health', pool: 'chat', address: row.address, row }]))).toEqual({
      kind: 'events',
      router: 'a',
      sequence: 7,
      events: [{ kind: 'health', pool: 'chat', address: row.address, row }],
    });
    expect(parsePoolMessage('chat', encodeSnapshot('a', 8, new Map(), true, undefined, [row, { ...row, aspect: 'probe', value: 'nonsense' }]))).toMatchObject({ health: [row] });
    expect(parsePoolMessage('chat', encodeSnapshot('a', 9, new Map(), true))).not.toHaveProperty('health');
  });

  it('of another endpoint than the event names are none', () => {
    expect(parsePoolMessage('chat', encodeEvents('a', 7, [{ kind: 'health', pool: 'chat', address: '10.0.0.2:80', row }]))).toBeUndefined();
  });
});

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { LoadEvent, PoolLoad } from '../fleet/shared-state.ts';
import { encodeEvents, encodeForwarded, encodeSnapshot, type ForwardedCompletion, parseForwarded, parsePoolMessage } from './exchange-messages.ts';
import type { CompletionSignal, Ending } from './ports.ts';

const keyId = '0123456789abcdef0123456789abcdef';
const address = '10.0.0.1:80';

/** A snapshot as some other program might write it. */
const snapshot = (changes: { version?: unknown; router?: unknown; sequence?: unknown; pushes?: unknown; rows?: unknown } = {}): string => {
  const { version, router, sequence, pushes, rows } = { version: 1, router: 'a', sequence: 1, pushes: 1, rows: [[address, 1, 2, 3]], ...changes };
  return JSON.stringify([version, router, sequence, 's', pushes, rows]);
};
const events = (rows: unknown): string => JSON.stringify([1, 'a', 1, 'e', rows]);

const counts = fc.integer({ min: 0, max: 1_000_000_000 });
const addresses = fc.oneof(fc.ipV4().map((ip) => `${ip}:80`), fc.ipV6().map((ip) => `[${ip}]:8000`));
const keyIds = fc.array(fc.integer({ min: 0, max: 15 }), { minLength: 32, maxLength: 32 }).map((digits) => digits.map((digit) => digit.toString(16)).join(''));
const routers = fc.stringMatching(/^[\w-]{1,60}$/);
const sequences = fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER });
const loadEvents = (pool: string): fc.Arbitrary<LoadEvent> =>
  fc.oneof(
    fc.record({
      kind: fc.constant('dispatch' as const),
      pool: fc.constant(pool),
      address: addresses,
      promptTokens: counts,
      placement: fc.option(fc.record({ keyId: keyIds, away: fc.boolean() }), { nil: undefined }),
    }),
    fc.record({ kind: fc.constant('first-token' as const), pool: fc.constant(pool), address: addresses, promptTokens: counts }),
    fc.record({ kind: fc.constant('done' as const), pool: fc.constant(pool), address: addresses, promptTokens: counts, waiting: fc.boolean() }),
  );
const loads: fc.Arbitrary<PoolLoad> = fc
  .array(fc.tuple(addresses, fc.record({ requests: counts, promptTokens: counts, promptTokensWaiting: counts })), { maxLength: 20 })
  .map((entries) => new Map(entries));

describe('pool messages', () => {
  it('a snapshot reads as it was written', () => {
    fc.assert(
      fc.property(routers, sequences, loads, fc.boolean(), (router, sequence, written, pushes) => {
        expect(parsePoolMessage('chat', encodeSnapshot(router, sequence, written, pushes))).toEqual({ kind: 'snapshot', router, sequence, loads: written, pushes });
      }),
    );
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
    const absurd = { requests: 3, promptTokens: 2.5e14, promptTokensWaiting: 1e300 };
    expect(parsePoolMessage('chat', encodeSnapshot('a', 1, new Map([[address, absurd]]), true))).toMatchObject({
      loads: new Map([[address, { requests: 3, promptTokens: 1e9, promptTokensWaiting: 1e9 }]]),
    });
    const dispatch: LoadEvent = { kind: 'dispatch', pool: 'chat', address, promptTokens: 2.5e14, placement: undefined };
    expect(parsePoolMessage('chat', encodeEvents('a', 1, [dispatch]))).toMatchObject({ events: [{ promptTokens: 1e9 }] });
  });

  it('a number that is none is told as nothing', () => {
    const odd = { requests: NaN, promptTokens: -5, promptTokensWaiting: 1.6 };
    expect(parsePoolMessage('chat', encodeSnapshot('a', 1, new Map([[address, odd]]), true))).toMatchObject({
      loads: new Map([[address, { requests: 0, promptTokens: 0, promptTokensWaiting: 2 }]]),
    });
  });

  const refused: Readonly<Record<string, string>> = {
    nothing: '',
    'no JSON': '{',
    'cut off': snapshot().slice(0, -3),
    'no list': '{"0":1,"1":"a","2":1,"3":"s"}',
    null: 'null',
    'an empty list': '[]',
    'another version': snapshot({ version: 2 }),
    'a version in text': snapshot({ version: '1' }),
    'an unnamed router': snapshot({ router: '' }),
    'a router of 81 letters': snapshot({ router: 'r'.repeat(81) }),
    'a router with a line break': snapshot({ router: 'a\nb' }),
    'a router that is no text': snapshot({ router: ['a'] }),
    'a negative sequence': snapshot({ sequence: -1 }),
    'a sequence with a fraction': snapshot({ sequence: 1.5 }),
    'a sequence past what numbers can tell apart': snapshot({ sequence: 2 ** 53 }),
    'a sequence in text': snapshot({ sequence: '1' }),
    'another kind': JSON.stringify([1, 'a', 1, 'q', 1, []]),
    'a kind of the prototype': JSON.stringify([1, 'a', 1, '__proto__', 1, []]),
    'rows that are no list': snapshot({ rows: { length: 0 } }),
    'a row that is no list': snapshot({ rows: ['x'] }),
    'a short row': snapshot({ rows: [[address, 1, 2]] }),
    'an empty address': snapshot({ rows: [['', 1, 2, 3]] }),
    'an address of 65 letters': snapshot({ rows: [['a'.repeat(65), 1, 2, 3]] }),
    'negative requests': snapshot({ rows: [[address, -1, 2, 3]] }),
    'half a request': snapshot({ rows: [[address, 0.1, 2, 3]] }),
    'tokens past the bound': snapshot({ rows: [[address, 1, 1e9 + 1, 3]] }),
    'tokens past all numbers': `[1,"a",1,"s",1,[["${address}",1,1e999,3]]]`,
    'tokens that are null': snapshot({ rows: [[address, 1, null, 3]] }),
    'more rows than anyone has endpoints': snapshot({ rows: Array.from({ length: 20_001 }, () => [address, 1, 2, 3]) }),
    'more text than anyone has to say': snapshot({ rows: [] }) + ' '.repeat(4_000_000),
    'an event of another kind': events([['q', address, 1]]),
    'an event of the prototype': events([['constructor', address, 1]]),
    'an event that is no list': events([{}]),
    'events that are no list': events('d'),
    'an event without tokens': events([['d', address]]),
    'an event of less than nothing': events([['x', address, -1, 1]]),
    'an event with a fraction of a token': events([['f', address, 0.5]]),
    'a placement that is no keyed hash': events([['d', address, 1, 'my-session-id', 1]]),
    'a placement in capitals': events([['d', address, 1, keyId.toUpperCase(), 1]]),
    'one bad event among good ones': events([['d', address, 1], ['d', address, -1]]),
  };
  for (const [name, text] of Object.entries(refused)) {
    it(`refuses ${name}`, () => {
      expect(parsePoolMessage('chat', text)).toBeUndefined();
    });
  }

  it('the good ones that these were made from are taken', () => {
    expect(parsePoolMessage('chat', snapshot())).toMatchObject({ kind: 'snapshot', router: 'a' });
    expect(parsePoolMessage('chat', snapshot({ router: 'r'.repeat(80), rows: Array.from({ length: 20_000 }, () => [address, 1, 2, 3]) }))).toBeDefined();
    expect(parsePoolMessage('chat', events([['d', address, 1], ['d', address, 1, keyId, 0], ['f', address, 1], ['x', address, 1, 0]]))).toMatchObject({
      events: [{ kind: 'dispatch', placement: undefined }, { placement: { keyId, away: false } }, { kind: 'first-token' }, { kind: 'done', waiting: false }],
    });
  });

  it('names of the prototype are names like any other', () => {
    const message = parsePoolMessage('__proto__', snapshot({ router: '__proto__', rows: [['constructor', 1, 2, 3], ['__proto__', 4, 5, 6]] }));
    expect(message).toMatchObject({ router: '__proto__' });
    expect(message?.kind === 'snapshot' && [...message.loads.keys()]).toEqual(['constructor', '__proto__']);
    expect(({} as { requests?: number }).requests).toBeUndefined();
  });

  it('never throws, whatever the text', () => {
    const jsonLike = fc.oneof(fc.string(), fc.json(), fc.jsonValue().map((value) => JSON.stringify([1, 'a', 1, 's', 1, value])), fc.jsonValue().map((value) => events([value])));
    fc.assert(
      fc.property(jsonLike, (text) => {
        parsePoolMessage('chat', text);
        parseForwarded(text);
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
    }),
  });

  it('read as they were written', () => {
    fc.assert(
      fc.property(fc.array(reports, { maxLength: 10 }), (written) => {
        expect(parseForwarded(encodeForwarded(written))).toEqual(written);
      }),
    );
  });

  it('what is malformed is left out, the rest counts', () => {
    const good = ['a.1', 'finished', 'access-log', 200, 1.5, address];
    const text = JSON.stringify([
      'x',
      [],
      good,
      ['a b', 'finished', 'access-log'],
      ['a.2', 'toString', 'access-log'],
      ['a.3', '__proto__', 'access-log'],
      ['a.4', 'finished', 'constructor'],
      ['l'.repeat(129), 'finished', 'access-log'],
    ]);
    expect(parseForwarded(text)).toEqual([{ lease: 'a.1', completion: { ending: 'finished', signal: 'access-log', status: 200, firstByteMs: 1.5, servedBy: address } }]);
  });

  it('details that are nonsense are not told on', () => {
    const text = JSON.stringify([['a.1', 'finished', 'access-log', -200, 'soon', 'a'.repeat(65)]]);
    expect(parseForwarded(text)).toEqual([{ lease: 'a.1', completion: { ending: 'finished', signal: 'access-log', status: undefined, firstByteMs: undefined, servedBy: undefined } }]);
  });

  it('what is no list holds no reports', () => {
    for (const text of ['', '{}', 'null', '"x"', '[', JSON.stringify(Array.from({ length: 20_001 }, () => ['a.1', 'finished', 'access-log']))]) {
      expect(parseForwarded(text)).toEqual([]);
    }
  });
});

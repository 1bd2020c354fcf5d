import { createHmac } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createAffinityHasher, createPrefixSeed, type Hash64, hashName, pairFraction } from './hash.ts';

// A change of any value in this file scatters all sessions while old and new routers run side by side: never by accident.

describe('hashName', () => {
  it.each([
    ['', 2_872_998_923, 2_551_842_700],
    ['a', 711_464_985, 749_915_153],
    ['ab', 3_952_640_924, 1_360_344_343],
    ['ba', 694_607_690, 2_379_247_556],
    ['10.0.0.1:8000', 1_913_029_076, 1_625_116_122],
    ['10.0.0.2:8000', 538_218_419, 237_789_512],
    ['[2001:db8::1]:8000', 4_169_266_246, 4_106_715_727],
    ['übel', 2_293_172_487, 2_502_831_936],
  ])('%j is what it always was', (name, high, low) => {
    expect(hashName(name)).toEqual({ high, low });
  });

  it('tells 65 536 addresses apart', () => {
    const seen = new Set<string>();
    for (let i = 0; i < 65_536; i += 1) {
      const { high, low } = hashName(`10.0.${i >> 8}.${i & 255}:8000`);
      expect(Number.isInteger(high) && high >= 0 && high < 2 ** 32 && Number.isInteger(low) && low >= 0 && low < 2 ** 32).toBe(true);
      seen.add(`${high}/${low}`);
    }
    expect(seen.size).toBe(65_536);
  });
});

describe('createAffinityHasher', () => {
  const hash = createAffinityHasher('test-secret');

  it.each([
    ['', 'alice', '4153802825c2063a2a98dea666c01038', 337_331_656, 3_767_184_573],
    ['acme', 'alice', '3e30c5f82e6596ab643e237b2ce10624', 2_653_360_562, 3_575_433_360],
    ['é', '😀', '0badbdefb9d0039d726692e3c39b50bf', 1_162_050_918, 3_205_982_253],
  ])('(%j, %j) is what it always was', (tenant, session, id, high, low) => {
    expect(hash(tenant, session)).toEqual({ id, high, low });
  });

  it('is HMAC-SHA-256 over both lengths and both texts', () => {
    const message = Buffer.concat([Buffer.from([0, 0, 0, 4, 0, 0, 0, 5]), Buffer.from('acmealice')]);
    const digest = createHmac('sha256', 'test-secret').update(message).digest('hex');
    const { id, high, low } = hash('acme', 'alice');
    expect(id + high.toString(16).padStart(8, '0') + low.toString(16).padStart(8, '0')).toBe(digest.slice(0, 48));
  });

  it('is so whatever the secret, tenant and session are made of, however long, and each time they are asked for', () => {
    const text = fc.oneof(fc.string({ unit: 'binary', maxLength: 300 }), fc.string({ maxLength: 20 }), fc.constant('\ud800 alone'));
    fc.assert(
      fc.property(text, fc.array(fc.tuple(text, text), { minLength: 1, maxLength: 5 }), (secret, pairs) => {
        const hashed = createAffinityHasher(secret);
        for (const [tenant, session] of [...pairs, ...pairs]) {
          const [tenantBytes, sessionBytes] = [Buffer.from(tenant), Buffer.from(session)];
          const lengths = Buffer.alloc(8);
          lengths.writeUInt32BE(tenantBytes.length, 0);
          lengths.writeUInt32BE(sessionBytes.length, 4);
          const digest = createHmac('sha256', secret).update(lengths).update(tenantBytes).update(sessionBytes).digest();
          expect(hashed(tenant, session)).toEqual({ id: digest.toString('hex', 0, 16), high: digest.readUInt32BE(16), low: digest.readUInt32BE(20) });
        }
      }),
    );
  });

  it('remembers what was asked for lately, in bounds: not the long ones, and not all there ever were', () => {
    const hashed = createAffinityHasher('test-secret');
    const first = hashed('acme', 'alice');
    expect(hashed('acme', 'alice')).toBe(first);
    const long = 'x'.repeat(253);
    expect(hashed('acme', long)).not.toBe(hashed('acme', long));
    expect(hashed('acm', long)).toBe(hashed('acm', long));

    for (let i = 0; i < 12_000; i += 1) hashed('', `session-${i}`);
    expect(hashed('acme', 'alice'), 'not a generation ago').toBe(first);
    for (let i = 12_000; i < 40_000; i += 1) hashed('', `session-${i}`);
    expect(hashed('acme', 'alice'), 'forgotten, and hashed again').not.toBe(first);
    expect(hashed('acme', 'alice')).toEqual(first);
  });

  it('lets no two pairs run together', () => {
    const pairs = [['ab', 'c'], ['a', 'bc'], ['', 'abc'], ['abc', ''], ['c', 'ab']] as const;
    expect(new Set(pairs.map(([tenant, session]) => hash(tenant, session).id)).size).toBe(pairs.length);
  });

  it('hangs on the secret, and on nothing else', () => {
    expect(createAffinityHasher('other-secret')('acme', 'alice').id).not.toBe(hash('acme', 'alice').id);
    expect(createAffinityHasher('test-secret')('acme', 'alice')).toEqual(hash('acme', 'alice'));
  });
});

describe('pairFraction', () => {
  const hash = createAffinityHasher('test-secret');

  it.each([
    [hash('', 'alice'), hashName('10.0.0.1:8000'), 0.4771592529240373],
    [{ high: 0, low: 0 }, { high: 0, low: 0 }, 0.8944913537477146],
  ])('is what it always was', (a, b, fraction) => {
    expect(pairFraction(a, b)).toBe(fraction);
  });

  it('is even: every tenth of [0, 1) gets its tenth', () => {
    const tenths = new Array<number>(10).fill(0);
    const keys = Array.from({ length: 200 }, (_, i) => hash('', `session-${i}`));
    const names = Array.from({ length: 200 }, (_, i) => hashName(`10.0.0.${i}:8000`));
    for (const key of keys) {
      for (const name of names) {
        const tenth = Math.floor(pairFraction(key, name) * 10);
        tenths[tenth] = (tenths[tenth] ?? 0) + 1;
      }
    }
    // 40 000 draws: a tenth holds 4 000, with a standard deviation of 60.
    for (const count of tenths) expect(Math.abs(count - 4_000)).toBeLessThan(4 * 60);
  });

  it('changes altogether when one bit of either changes', () => {
    const a: Hash64 = hash('', 'alice');
    const b: Hash64 = hashName('10.0.0.1:8000');
    const before = pairFraction(a, b);
    const distances: number[] = [];
    for (let bit = 0; bit < 32; bit += 1) {
      const flip = (value: number): number => (value ^ (1 << bit)) >>> 0;
      for (const [c, d] of [
        [{ ...a, high: flip(a.high) }, b],
        [{ ...a, low: flip(a.low) }, b],
        [a, { ...b, high: flip(b.high) }],
        [a, { ...b, low: flip(b.low) }],
      ] as const) {
        distances.push(Math.abs(pairFraction(c, d) - before));
      }
    }
    expect(Math.min(...distances)).toBeGreaterThan(1e-4);
    const mean = distances.reduce((sum, distance) => sum + distance, 0) / distances.length;
    expect(mean).toBeGreaterThan(0.2);
    expect(mean).toBeLessThan(0.4);
  });

  it('is above 0 where all its bits are 0', () => {
    expect(pairFraction({ high: 0, low: 0 }, { high: 654_236_624, low: 1_779_033_703 })).toBeGreaterThan(0);
  });

  it('is below 1 where all its bits are 1', () => {
    expect(pairFraction({ high: 0, low: 857_579_651 }, { high: 1_379_855_202, low: 1_779_033_703 })).toBeLessThan(1);
  });
});

describe('createPrefixSeed', () => {
  it('hangs on the secret alone, and is no affinity key of it', () => {
    expect(createPrefixSeed('one')).toEqual(createPrefixSeed('one'));
    expect(createPrefixSeed('one')).not.toEqual(createPrefixSeed('two'));
    const { high, low } = createAffinityHasher('one')('', 'fairlead prefix hashes');
    expect(createPrefixSeed('one')).not.toEqual({ high, low });
  });
});

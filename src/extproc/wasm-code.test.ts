import { afterEach, describe, expect, it, vi } from 'vitest';
import {
  add,
  again,
  and,
  type Code,
  createKernel,
  cycle,
  differs,
  equalBytes,
  equals,
  get,
  highestBits,
  i32,
  isAnySet,
  isBelow,
  isLess,
  isZero,
  leave,
  load,
  loadByte,
  loadSignedByte,
  loadSixteen,
  multiply,
  or,
  orSixteen,
  rotateLeft,
  set,
  shiftLeft,
  sixteenTimes,
  store,
  tee,
  trailingZeros,
  when,
  xor,
} from './wasm-code.ts';

/** What an expression of two parameters gives. */
function evaluate(expression: Code, a = 0, b = 0): number {
  return createKernel({ run: { parameters: 2, locals: 0, body: expression } }, 1).functions.run(a, b);
}

describe('code for WebAssembly', () => {
  afterEach(() => void vi.unstubAllGlobals());

  it('says what to do in a process that has none', () => {
    vi.stubGlobal('WebAssembly', undefined);
    expect(() => evaluate(i32(1))).toThrow(/--jitless/);
  });

  it('writes constants of any size and sign', () => {
    const values = [0, 1, -1, 0x3f, 0x40, -0x40, -0x41, 0x1fff, 0x2000, -0x2000, -0x2001, 0x7fffffff, -0x80000000];
    expect(values.map((value) => evaluate(i32(value)))).toEqual(values);
    expect(evaluate(i32(0xab0e9789))).toBe(0xab0e9789 | 0);
  });

  const a = 0x12345678;
  const b = 0x9abcdef0 | 0;
  it.each<[string, Code, number]>([
    ['add', add(get(0), get(1)), (a + b) | 0],
    ['multiply', multiply(get(0), get(1)), Math.imul(a, b)],
    ['and', and(get(0), get(1)), a & b],
    ['or', or(get(0), get(1)), a | b],
    ['xor', xor(get(0), get(1)), a ^ b],
    ['shiftLeft', shiftLeft(get(0), i32(8)), 0x34567800],
    ['rotateLeft', rotateLeft(get(0), i32(8)), 0x34567812],
    ['trailingZeros', trailingZeros(get(0)), 3],
    ['tee', multiply(tee(0, add(get(0), i32(1))), get(0)), Math.imul(a + 1, a + 1)],
    ['isZero', isZero(get(0)), 0],
    ['isZero of 0', isZero(i32(0)), 1],
    ['equals', equals(get(0), get(1)), 0],
    ['differs', differs(get(0), get(1)), 1],
    ['isBelow', isBelow(get(0), get(1)), 1],
    ['isLess', isLess(get(0), get(1)), 0],
  ])('calculates: %s', (_, expression, expected) => {
    expect(evaluate(expression, a, b)).toBe(expected);
  });

  it('reads and writes memory at any address, counts in locals, repeats and leaves', () => {
    const sum = 1;
    const body = [
      ...cycle([
        ...when(equals(get(0), i32(21)), leave(1)),
        ...set(sum, add(get(sum), load(get(0), 300))),
        ...set(0, add(get(0), i32(4))),
        ...when(isBelow(get(0), i32(100)), again(1)),
      ]),
      ...store(get(0), 1, get(sum)),
      ...get(0),
    ];
    const { functions, memory } = createKernel({ first: { parameters: 1, locals: 0, body: get(0) }, sum: { parameters: 1, locals: 1, body } }, 2);
    const view = new DataView(memory);
    expect(memory.byteLength).toBe(2 * 65_536);
    for (let i = 0; i < 10; i += 1) view.setInt32(309 + 4 * i, 10 ** i, true);
    expect(functions.sum(9)).toBe(21);
    expect(view.getInt32(22, true)).toBe(111);
    expect(functions.first(7)).toBe(7);
  });

  it('compares sixteen bytes at once', () => {
    const isEither = (x: number, y: number): Code =>
      highestBits(orSixteen(equalBytes(loadSixteen(get(0), 2), sixteenTimes(x)), equalBytes(loadSixteen(get(0), 2), sixteenTimes(y))));
    const { functions, memory } = createKernel(
      {
        either: { parameters: 1, locals: 0, body: isEither(0x22, 0xff) },
        any: { parameters: 1, locals: 0, body: isAnySet(loadSixteen(get(0), 0)) },
        byte: { parameters: 1, locals: 0, body: loadByte(get(0), 200) },
        signed: { parameters: 1, locals: 0, body: loadSignedByte(get(0), 200) },
      },
      1,
    );
    const bytes = new Uint8Array(memory);
    for (const at of [99, 101, 104, 116, 117]) bytes[at] = 0x22;
    bytes[110] = 0xff;
    bytes[111] = 0x23;
    expect(functions.either(99)).toBe((1 << 0) | (1 << 3) | (1 << 9) | (1 << 15));
    expect([84, 83, 118, 102].map((at) => functions.any(at))).toEqual([1, 0, 0, 1]);
    bytes[203] = 0xfe;
    expect([functions.byte(3), functions.signed(3)]).toEqual([254, -2]);
  });
});

import { describe, expect, it } from 'vitest';
import { add, createKernel, get, i32, isBelow, load, multiply, repeatWhile, rotateLeft, set, store, xor } from './wasm-code.ts';

/** What an expression of two parameters gives. */
function evaluate(expression: readonly number[], a = 0, b = 0): number {
  const { functions, memory } = createKernel([{ name: 'run', parameters: 2, locals: 0, body: store(i32(0), 0, expression) }], 1);
  functions['run']?.(a, b);
  return new Int32Array(memory)[0] ?? NaN;
}

describe('code for WebAssembly', () => {
  it('writes constants of any size and sign', () => {
    const values = [0, 1, -1, 0x3f, 0x40, -0x40, -0x41, 0x1fff, 0x2000, -0x2000, -0x2001, 0x7fffffff, -0x80000000];
    expect(values.map((value) => evaluate(i32(value)))).toEqual(values);
    expect(evaluate(i32(0xab0e9789))).toBe(0xab0e9789 | 0);
  });

  it('calculates with words', () => {
    const a = 0x12345678;
    const b = 0x9abcdef0 | 0;
    expect(evaluate(add(get(0), get(1)), a, b)).toBe((a + b) | 0);
    expect(evaluate(multiply(get(0), get(1)), a, b)).toBe(Math.imul(a, b));
    expect(evaluate(xor(get(0), get(1)), a, b)).toBe(a ^ b);
    expect(evaluate(rotateLeft(get(0), i32(8)), a)).toBe(0x34567812);
    expect(evaluate(isBelow(get(0), get(1)), a, b)).toBe(1);
    expect(evaluate(isBelow(get(1), get(0)), a, b)).toBe(0);
  });

  it('reads and writes memory at any address, counts in locals and repeats', () => {
    const sum = 1;
    const body = [
      ...repeatWhile([...set(sum, add(get(sum), load(get(0), 300))), ...set(0, add(get(0), i32(4)))], isBelow(get(0), i32(20))),
      ...store(get(0), 1, get(sum)),
    ];
    const { functions, memory } = createKernel([{ name: 'unused', parameters: 1, locals: 0, body: [] }, { name: 'sum', parameters: 1, locals: 1, body }], 2);
    const view = new DataView(memory);
    expect(memory.byteLength).toBe(2 * 65_536);
    for (let i = 0; i < 3; i += 1) view.setInt32(309 + 4 * i, 10 ** i, true);
    functions['sum']?.(9);
    expect(view.getInt32(22, true)).toBe(111);
  });
});

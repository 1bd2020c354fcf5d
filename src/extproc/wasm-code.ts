/**
 * Writes WebAssembly, as little of it as the kernels here need: whole numbers of 32 bits, locals, one memory and loops. An instruction comes
 * after its operands, so that functions put code together as an expression would. Numbers in it are opcodes and sections of the core
 * specification's binary format (https://webassembly.github.io/spec/core/binary/).
 *
 * Written here instead of compiled elsewhere: a kernel is some twenty lines, and what runs is what can be read.
 */
export type Code = readonly number[];

/** A constant. */
export const i32 = (value: number): Code => [0x41, ...signed(value | 0)];
export const get = (local: number): Code => [0x20, local];
export const set = (local: number, value: Code): Code => [...value, 0x21, local];
export const add = (a: Code, b: Code): Code => [...a, ...b, 0x6a];
export const multiply = (a: Code, b: Code): Code => [...a, ...b, 0x6c];
export const xor = (a: Code, b: Code): Code => [...a, ...b, 0x73];
export const rotateLeft = (a: Code, bits: Code): Code => [...a, ...bits, 0x77];
/** Whether `a < b`, both without a sign. */
export const isBelow = (a: Code, b: Code): Code => [...a, ...b, 0x49];
/** The word at `address + offset`, which need not be aligned; little-endian. */
export const load = (address: Code, offset: number): Code => [...address, 0x28, 0, ...unsigned(offset)];
export const store = (address: Code, offset: number, value: Code): Code => [...address, ...value, 0x36, 0, ...unsigned(offset)];
/** Runs `body` once, and again for as long as `condition` is not 0 after it. */
export const repeatWhile = (body: Code, condition: Code): Code => [0x03, 0x40, ...body, ...condition, 0x0d, 0x00, 0x0b];

/** A function without a result. Locals are numbered on from its parameters. */
export interface KernelFunction {
  readonly name: string;
  readonly parameters: number;
  readonly locals: number;
  readonly body: Code;
}

/** The functions by their names, and their memory. */
export interface Kernel {
  readonly functions: Readonly<Record<string, (...parameters: number[]) => void>>;
  readonly memory: ArrayBuffer;
}

/** What is used of the global object of that name: Node's types leave it to those of browsers. */
declare const WebAssembly: {
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (module: object) => { readonly exports: Readonly<Record<string, unknown>> };
};

/** Compiles functions that share a memory of `pages` times 64 KB. */
export function createKernel(functions: readonly KernelFunction[], pages: number): Kernel {
  const bytes = [
    ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
    ...section(1, list(functions.map(({ parameters }) => [0x60, ...list(Array.from({ length: parameters }, () => [0x7f])), 0x00]))),
    ...section(3, list(functions.map((_, i) => unsigned(i)))),
    ...section(5, list([[0x00, ...unsigned(pages)]])),
    ...section(7, list([[...text('memory'), 0x02, 0x00], ...functions.map(({ name }, i) => [...text(name), 0x00, ...unsigned(i)])])),
    ...section(10, list(functions.map(({ locals, body }) => sized([...list([[...unsigned(locals), 0x7f]]), ...body, 0x0b])))),
  ];
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(Uint8Array.from(bytes)));
  const { memory, ...rest } = exports as { memory: { buffer: ArrayBuffer } } & Kernel['functions'];
  return { functions: rest, memory: memory.buffer };
}

const sized = (code: Code): Code => [...unsigned(code.length), ...code];
const section = (id: number, code: Code): Code => [id, ...sized(code)];
const list = (items: readonly Code[]): Code => [...unsigned(items.length), ...items.flat()];
const text = (name: string): Code => sized([...Buffer.from(name)]);

/** A whole number from 0 on, seven bits a byte (LEB128). */
function unsigned(value: number): Code {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...unsigned(value >>> 7)];
}

/** A whole number of 32 bits, seven bits a byte; the last byte's highest bit tells the sign. */
function signed(value: number): Code {
  return value >= -0x40 && value < 0x40 ? [value & 0x7f] : [(value & 0x7f) | 0x80, ...signed(value >> 7)];
}

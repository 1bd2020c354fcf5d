/**
 * Writes WebAssembly, as little of it as the kernels here need: whole numbers of 32 bits, sixteen bytes at once, locals, one memory and loops.
 * An instruction comes after its operands, so that functions put code together as an expression would. Numbers in it are opcodes and
 * sections of the core specification's binary format (https://webassembly.github.io/spec/core/binary/).
 *
 * Written here instead of compiled elsewhere: a kernel is some twenty lines, and what runs is what can be read.
 */
export type Code = readonly number[];

/** A constant. */
export const i32 = (value: number): Code => [0x41, ...signed(value | 0)];
export const get = (local: number): Code => [0x20, local];
export const set = (local: number, value: Code): Code => [...value, 0x21, local];
/** As {@link set}, and gives the value. */
export const tee = (local: number, value: Code): Code => [...value, 0x22, local];
export const add = (a: Code, b: Code): Code => [...a, ...b, 0x6a];
export const multiply = (a: Code, b: Code): Code => [...a, ...b, 0x6c];
export const and = (a: Code, b: Code): Code => [...a, ...b, 0x71];
export const or = (a: Code, b: Code): Code => [...a, ...b, 0x72];
export const xor = (a: Code, b: Code): Code => [...a, ...b, 0x73];
export const shiftLeft = (a: Code, bits: Code): Code => [...a, ...bits, 0x74];
export const rotateLeft = (a: Code, bits: Code): Code => [...a, ...bits, 0x77];
/** Bits that are 0 below the lowest that is not. */
export const trailingZeros = (a: Code): Code => [...a, 0x68];

// Comparisons give 1 or 0.
export const isZero = (a: Code): Code => [...a, 0x45];
export const equals = (a: Code, b: Code): Code => [...a, ...b, 0x46];
export const differs = (a: Code, b: Code): Code => [...a, ...b, 0x47];
/** `a < b`, both without a sign. */
export const isBelow = (a: Code, b: Code): Code => [...a, ...b, 0x49];
/** `a < b`, both with their signs. */
export const isLess = (a: Code, b: Code): Code => [...a, ...b, 0x48];

/** The word at `address + offset`, which need not be aligned; little-endian. */
export const load = (address: Code, offset: number): Code => [...address, 0x28, 0, ...unsigned(offset)];
export const store = (address: Code, offset: number, value: Code): Code => [...address, ...value, 0x36, 0, ...unsigned(offset)];
/** The byte at `address + offset`, from 0 to 255, and from -128 to 127. */
export const loadByte = (address: Code, offset: number): Code => [...address, 0x2d, 0, ...unsigned(offset)];
export const loadSignedByte = (address: Code, offset: number): Code => [...address, 0x2c, 0, ...unsigned(offset)];

// Sixteen bytes at once.
export const loadSixteen = (address: Code, offset: number): Code => [...address, 0xfd, 0x00, 0, ...unsigned(offset)];
export const sixteenTimes = (byte: number): Code => [0xfd, 0x0c, ...Array.from({ length: 16 }, () => byte)];
/** All bits of a byte set where the two are equal in it, none elsewhere. */
export const equalBytes = (a: Code, b: Code): Code => [...a, ...b, 0xfd, 0x23];
export const orSixteen = (a: Code, b: Code): Code => [...a, ...b, 0xfd, 0x50];
/** 1 where any bit is set, otherwise 0. */
export const isAnySet = (a: Code): Code => [...a, 0xfd, 0x53];
/** The highest bit of each byte, that of the first byte lowest. */
export const highestBits = (a: Code): Code => [...a, 0xfd, 0x64];

export const when = (condition: Code, body: Code): Code => [...condition, 0x04, 0x40, ...body, 0x0b];
/**
 * Runs `body` over again where it says so by {@link again}; ends where it says {@link leave}, or at its end. Both are told how many
 * {@link when} stand around them within the cycle.
 */
export const cycle = (body: Code): Code => [0x02, 0x40, 0x03, 0x40, ...body, 0x0b, 0x0b];
export const again = (whens: number): Code => [0x0c, whens];
export const leave = (whens: number): Code => [0x0c, whens + 1];

/** Locals are numbered on from the parameters: first those of words, then those of sixteen bytes. */
export interface KernelFunction {
  readonly parameters: number;
  readonly locals: number;
  readonly sixteens?: number;
  /** Leaves the result behind. */
  readonly body: Code;
}

/** The functions by their names, and their memory. */
export interface Kernel<Name extends string> {
  readonly functions: Readonly<Record<Name, (...parameters: number[]) => number>>;
  readonly memory: ArrayBuffer;
}

/** What is used of the global object of that name: Node's types leave it to those of browsers. */
declare const WebAssembly: {
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (module: object) => { readonly exports: Readonly<Record<string, unknown>> };
};

/** Compiles functions of whole numbers, each with one as its result, that share a memory of `pages` times 64 KB. */
export function createKernel<Name extends string>(functions: Readonly<Record<Name, KernelFunction>>, pages: number): Kernel<Name> {
  const named = Object.entries<KernelFunction>(functions);
  const bytes = [
    ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
    ...section(1, list(named.map(([, { parameters }]) => [0x60, ...list(Array.from({ length: parameters }, () => [0x7f])), ...list([[0x7f]])]))),
    ...section(3, list(named.map((_, i) => unsigned(i)))),
    ...section(5, list([[0x00, ...unsigned(pages)]])),
    ...section(7, list([[...text('memory'), 0x02, 0x00], ...named.map(([name], i) => [...text(name), 0x00, ...unsigned(i)])])),
    ...section(10, list(named.map(([, { locals, sixteens = 0, body }]) => sized([...list([[...unsigned(locals), 0x7f], [...unsigned(sixteens), 0x7b]]), ...body, 0x0b])))),
  ];
  const { exports } = instantiate(Uint8Array.from(bytes));
  return { functions: exports as Kernel<Name>['functions'], memory: (exports['memory'] as { readonly buffer: ArrayBuffer }).buffer };
}

/** Throws an error that names cause and cure where this process cannot run it. */
function instantiate(bytes: Uint8Array): { readonly exports: Readonly<Record<string, unknown>> } {
  try {
    return new WebAssembly.Instance(new WebAssembly.Module(bytes));
  } catch (error) {
    const cause = error instanceof Error ? error.message : String(error);
    throw new Error(`Bodies are read by WebAssembly, which cannot be used here (${cause}): run Node without --jitless, and without a limit of address space (ulimit -v).`, { cause: error });
  }
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

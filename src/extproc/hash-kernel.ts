import { add, type Code, createKernel, get, i32, isBelow, load, multiply, repeatWhile, rotateLeft, set, store, xor } from './wasm-code.ts';

/**
 * The part of the prefix hash that sees every byte, in WebAssembly: the same in JavaScript takes three times as many instructions, most of them
 * to check that no sum overflows and no index is out of bounds. It reads its own memory alone, so that bytes are copied there first, which
 * costs a fifth of what is saved. All hashes of a thread share it: they are not in it from one call to the next.
 */

/** Bytes taken in one step: two words of 32 bits for each lane. */
export const groupBytes = 32;

/** Where the bytes to be hashed begin in the kernel's memory; the lanes are before them. */
const stageAt = 64;
/** A chunk as large as Envoy's come, what may be left over from the one before, and room to pad a last group. */
const stageBytes = 16_384 + 2 * groupBytes;

const position = 0;
const end = 1;
const firstLane = 2;

/** One lane's step with its two words of a group: what each lane is multiplied with is of MurmurHash3 (x86_128). */
function step(lane: number, factor: number, bits: number): Code {
  const local = firstLane + lane;
  const mixed = rotateLeft(multiply(xor(get(local), load(get(position), lane * 8)), i32(factor)), i32(bits));
  return set(local, add(mixed, load(get(position), lane * 8 + 4)));
}

const laneNumbers = [0, 1, 2, 3];
const group: Code = [
  ...[step(0, 0x239b961b, 15), step(1, 0xab0e9789, 16), step(2, 0x38b34ae5, 17), step(3, 0xa1e38b93, 18)].flat(),
  ...set(position, add(get(position), i32(groupBytes))),
];

const { functions, memory } = createKernel(
  [
    {
      name: 'addGroups',
      parameters: 2,
      locals: laneNumbers.length,
      body: [
        ...laneNumbers.flatMap((lane) => set(firstLane + lane, load(i32(0), lane * 4))),
        ...repeatWhile(group, isBelow(get(position), get(end))),
        ...laneNumbers.flatMap((lane) => store(i32(0), lane * 4, get(firstLane + lane))),
      ],
    },
  ],
  1,
);

/** The four lanes, each 32 bits. */
export const lanes = new Int32Array(memory, 0, laneNumbers.length);
/** Where bytes are put to be hashed. */
export const stage = Buffer.from(memory, stageAt, stageBytes);

const addGroupsAt = functions['addGroups'] as (from: number, to: number) => void;

/** Takes the whole groups of the stage's bytes from `from` up to `to`, at least one, into the lanes. */
export function addGroups(from: number, to: number): void {
  addGroupsAt(stageAt + from, stageAt + to);
}

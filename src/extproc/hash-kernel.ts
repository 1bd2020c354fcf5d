import { add, again, and, type Code, cycle, get, i32, isBelow, type KernelFunction, leave, load, multiply, rotateLeft, set, store, when, xor } from './wasm-code.ts';

/** Bytes taken in one step: two words of 32 bits for each lane. */
export const groupBytes = 32;
export const laneCount = 4;

const position = 0;
const end = 1;
const firstLane = 2;

/** One lane's step with its two words of a group: what each lane is multiplied with is of MurmurHash3 (x86_128). */
function step(lane: number, factor: number, bits: number): Code {
  const local = firstLane + lane;
  const mixed = rotateLeft(multiply(xor(get(local), load(get(position), lane * 8)), i32(factor)), i32(bits));
  return set(local, add(mixed, load(get(position), lane * 8 + 4)));
}

const takeGroup: Code = [
  ...[step(0, 0x239b961b, 15), step(1, 0xab0e9789, 16), step(2, 0x38b34ae5, 17), step(3, 0xa1e38b93, 18)].flat(),
  ...set(position, add(get(position), i32(groupBytes))),
];
const lanes = Array.from({ length: laneCount }, (_, lane) => lane);

/**
 * The part of the prefix hash that sees every byte: takes the whole groups from one address up to another into the four lanes at
 * `lanesAt`, and gives where it ended. In JavaScript it takes three times as many instructions, most of them to check that no sum overflows
 * and no index is out of bounds.
 */
export function addGroupsTo(lanesAt: number): KernelFunction {
  return {
    parameters: 2,
    locals: laneCount,
    body: [
      ...lanes.flatMap((lane) => set(firstLane + lane, load(i32(lanesAt), lane * 4))),
      // Two groups a turn, which saves a tenth; so first the one that an odd number has left over.
      ...when(and(xor(get(position), get(end)), i32(groupBytes)), takeGroup),
      ...cycle([...when(isBelow(get(position), get(end)), [...takeGroup, ...takeGroup, ...again(1)]), ...leave(0)]),
      ...lanes.flatMap((lane) => store(i32(lanesAt), lane * 4, get(firstLane + lane))),
      ...get(position),
    ],
  };
}

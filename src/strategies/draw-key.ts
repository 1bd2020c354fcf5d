import { type Hash64, hashName } from '../core/hash.ts';

/** A hash key made of chance: equal draws (in [0, 1)) give equal keys, close ones unrelated keys. */
export function drawKey(draw: number): Hash64 {
  return hashName(String(draw));
}

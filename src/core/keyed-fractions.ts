/* eslint-disable @typescript-eslint/no-non-null-assertion -- indices are kept in bounds; a check for undefined per member would cost time */
import { fractionOf, type Hash64, keyPart, memberPart } from './hash.ts';

/**
 * `pairFraction` of a key with each of some members, in a column. What hangs on a member alone is worked out once, what hangs on the key once
 * for all members; and a decision that asks more than once for the same key is given what it got before.
 */
export class KeyedFractions {
  readonly #parts: Int32Array;
  readonly #highs: Int32Array;
  readonly #fractions: Float64Array;
  #key: Hash64 | undefined;

  constructor(members: readonly { readonly hash: Hash64 }[]) {
    this.#parts = new Int32Array(members.length);
    this.#highs = new Int32Array(members.length);
    this.#fractions = new Float64Array(members.length);
    members.forEach(({ hash }, i) => {
      this.#parts[i] = memberPart(hash);
      this.#highs[i] = hash.high;
    });
  }

  /** In the members' order. Valid until another key is asked for: to be read at once. */
  of(key: Hash64): Float64Array {
    const { high, low } = key;
    const fractions = this.#fractions;
    if (this.#key?.low === low && this.#key.high === high) return fractions;
    const parts = this.#parts;
    const highs = this.#highs;
    const part = keyPart(key);
    for (let i = 0; i < fractions.length; i += 1) fractions[i] = fractionOf(part, high, parts[i]!, highs[i]!);
    this.#key = key;
    return fractions;
  }
}

import { hashName } from '../../src/core/hash.ts';
import type { Rng } from '../../src/router/ports.ts';

/**
 * Chance that repeats itself: equal seeds give equal draws. Generator: sfc32 of PractRand (Chris Doty-Humphrey, public domain), 128 bits
 * of state; the first draws are thrown away to mix the seed in.
 */
export class SeededRng implements Rng {
  readonly seed: number;
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  constructor(seed: number, stream = '') {
    const { high, low } = hashName(stream);
    this.seed = seed;
    this.#a = (high ^ Math.floor(seed / 0x100000000)) | 0;
    this.#b = low | 0;
    this.#c = seed | 0;
    for (let i = 0; i < 16; i += 1) this.#next();
  }

  /** A generator of its own for one purpose: what another purpose draws does not move it. */
  stream(name: string): SeededRng {
    return new SeededRng(this.seed, name);
  }

  /** Even in [0, 1), to 2⁻³². */
  draw(): number {
    return this.#next() / 0x100000000;
  }

  /** Even in [low, high). */
  between(low: number, high: number): number {
    return low + this.draw() * (high - low);
  }

  /** A whole number, even from 0 to below `count`. */
  below(count: number): number {
    return Math.floor(this.draw() * count);
  }

  /** True in that share of the draws. */
  chance(share: number): boolean {
    return this.draw() < share;
  }

  /** One of them. */
  pick<T>(from: readonly [T, ...T[]]): T {
    return from[this.below(from.length)] ?? from[0];
  }

  /** Exponential with that mean. */
  exponential(mean: number): number {
    return -mean * Math.log(1 - this.draw());
  }

  /** Log-normal with that median; `sigma` is the standard deviation of its logarithm (Box–Muller). */
  logNormal(median: number, sigma: number): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.draw()));
    return median * Math.exp(sigma * radius * Math.cos(2 * Math.PI * this.draw()));
  }

  #next(): number {
    const sum = (((this.#a + this.#b) | 0) + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + sum;
    this.#c |= 0;
    return sum >>> 0;
  }
}

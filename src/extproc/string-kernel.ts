import {
  add,
  again,
  and,
  type Code,
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
  type KernelFunction,
  leave,
  loadByte,
  loadSignedByte,
  loadSixteen,
  or,
  orSixteen,
  set,
  shiftLeft,
  sixteenTimes,
  store,
  tee,
  trailingZeros,
  when,
} from './wasm-code.ts';

/** Bytes that a search looks at in one step, of which those after its end do not count. */
export const stepBytes = 16;

const quote = 0x22;
const backslash = 0x5c;
const letterU = 0x75;

const position = 0;
const end = 1;

const byteAt = (offset: number): Code => loadByte(get(position), offset);
const skip = (bytes: number): Code => set(position, add(get(position), i32(bytes)));

/** What is looked for: any of a few bytes. Each stands in a local sixteen times, so that it is not made anew at each step. */
class Search {
  readonly #wanted: readonly number[];
  readonly #sixteen: number;
  readonly #firstWanted: number;

  /** `firstLocal`: of as many of sixteen bytes as {@link locals} tells. */
  constructor(wanted: readonly number[], firstLocal: number) {
    this.#wanted = wanted;
    this.#sixteen = firstLocal;
    this.#firstWanted = firstLocal + 1;
  }

  get locals(): number {
    return 1 + this.#wanted.length;
  }

  get start(): Code {
    return this.#wanted.flatMap((byte, i) => set(this.#firstWanted + i, sixteenTimes(byte)));
  }

  /** Of the sixteen bytes at an offset, those that are wanted have all their bits set, the others none. */
  at(offset: number): Code {
    const first = equalBytes(tee(this.#sixteen, loadSixteen(get(position), offset)), get(this.#firstWanted));
    const others = this.#wanted.slice(1).map((_, i) => equalBytes(get(this.#sixteen), get(this.#firstWanted + 1 + i)));
    return others.reduce(orSixteen, first);
  }
}

/**
 * Goes on to the next byte that the search finds; leaves the cycle, at its end, where there is none. Within `whens`. Most strings are
 * short; where the first step finds nothing, four at a time are taken, as long as none reaches beyond the end.
 */
function goToNext(found: number, search: Search, whens: number): Code {
  const inFourSteps = orSixteen(orSixteen(search.at(0), search.at(stepBytes)), orSixteen(search.at(2 * stepBytes), search.at(3 * stepBytes)));
  return [
    ...set(found, highestBits(search.at(0))),
    ...when(isZero(get(found)), [
      ...skip(stepBytes),
      ...cycle(
        when(isBelow(add(get(position), i32(4 * stepBytes)), get(end)), when(isZero(isAnySet(inFourSteps)), [...skip(4 * stepBytes), ...again(2)])),
      ),
      ...when(isBelow(get(position), get(end)), again(whens + 2)),
      ...set(position, get(end)),
      ...leave(whens + 1),
    ]),
    ...set(position, add(get(position), trailingZeros(get(found)))),
    ...when(isZero(isBelow(get(position), get(end))), [...set(position, get(end)), ...leave(whens + 1)]),
  ];
}

/** A function that goes from one address towards another, and gives where it stops. `locals`: of words, beside those two. */
function searching(search: Search, locals: number, body: Code): KernelFunction {
  return { parameters: 2, locals, sixteens: search.locals, body: [...search.start, ...body, ...get(position)] };
}

/** From one address to the next quote or backslash; to the end where there is none before it. */
export function findQuoteOrBackslash(): KernelFunction {
  const found = 2;
  const search = new Search([quote, backslash], 3);
  return searching(search, 1, cycle(goToNext(found, search, 0)));
}

/**
 * From where a string's content begins, or goes on with what is not escaped, to its closing quote; gives the end where there is none before
 * it. Looks at quotes alone: whether one is escaped shows in the backslashes before it.
 */
export function findClosingQuote(): KernelFunction {
  const found = 2;
  const start = 3;
  const run = 4;
  const search = new Search([quote], 5);
  const runByte = loadByte(add(get(run), i32(-1)), 0);
  return searching(search, 3, [
    ...set(start, get(position)),
    ...cycle([
      ...goToNext(found, search, 0),
      ...set(run, get(position)),
      ...cycle(when(isBelow(get(start), get(run)), when(equals(runByte, i32(backslash)), [...set(run, add(get(run), i32(-1))), ...again(2)]))),
      // An even number of backslashes, none included, escapes one another alone.
      ...when(isZero(and(add(get(position), get(run)), i32(1))), leave(1)),
      ...skip(1),
      ...again(0),
    ]),
  ]);
}

/** Two tables of 256 bytes: whether a letter after a backslash stands for one byte; a hex digit's value, -1 for any other byte. */
export interface EscapeTables {
  readonly escapesAt: number;
  readonly hexAt: number;
}

/**
 * Goes through the content of a string of which only the length matters, to its closing quote, to the end, or to an escape sequence that
 * is not sound, not whole, or half a surrogate pair. What the decoded text has less in bytes of UTF-8 than what was written, goes into the
 * word at `savedAt`.
 */
export function measureString({ escapesAt, hexAt }: EscapeTables, savedAt: number): KernelFunction {
  const found = 2;
  const saved = 3;
  const unit = 4;
  const search = new Search([quote, backslash], 5);
  const endsWithin = (bytes: number): Code => isBelow(get(end), add(get(position), i32(bytes)));
  const hexDigit = (offset: number, shift: number): Code => shiftLeft(loadSignedByte(byteAt(offset), hexAt), i32(shift));
  return searching(search, 3, [
    ...cycle([
      // Where escapes come one after another, no search is worth its while.
      ...when(differs(byteAt(0), i32(backslash)), [...goToNext(found, search, 1), ...when(equals(byteAt(0), i32(quote)), leave(2))]),
      ...when(endsWithin(2), leave(1)),
      ...when(loadByte(byteAt(1), escapesAt), [...set(saved, add(get(saved), i32(1))), ...skip(2), ...again(1)]),
      ...when(or(differs(byteAt(1), i32(letterU)), endsWithin(6)), leave(1)),
      ...set(unit, or(or(hexDigit(2, 12), hexDigit(3, 8)), or(hexDigit(4, 4), hexDigit(5, 0)))),
      ...when(or(isLess(get(unit), i32(0)), equals(and(get(unit), i32(0xf800)), i32(0xd800))), leave(1)),
      // Six bytes written; one, two or three in UTF-8.
      ...set(saved, add(add(get(saved), i32(3)), add(isBelow(get(unit), i32(0x800)), isBelow(get(unit), i32(0x80))))),
      ...skip(6),
      ...again(0),
    ]),
    ...store(i32(savedAt), 0, get(saved)),
  ]);
}

/**
 * A lazy, incremental reader of JSON request bodies: it takes a few facts out of a body that arrives in chunks cut
 * anywhere, builds no objects and no string of the body, and stops as soon as it knows all that was asked.
 *
 * It is a pushdown automaton over bytes (RFC 8259), without recursion. Only what is asked is looked at closely: inside a value
 * nobody asked about it follows quotes and brackets alone, and in text that is only measured it does not look for raw control
 * characters, so a body may be wrong there without being noticed. Whether an error is noticed, and everything else, depends on
 * the bytes and the plan, never on how the bytes were cut into chunks. To keep that so, every method below that reads ahead
 * within a chunk must come to the same result as the byte-by-byte path it shortens. The same goes for the pieces in which chunks are put
 * on the stage, where all reading is done.
 */
/* eslint-disable @typescript-eslint/no-non-null-assertion -- indices are kept in bounds; a check for undefined per byte would cost time */
import { isUtf8 } from 'node:buffer';
import { PrefixHasher } from './prefix-hasher.ts';
import { type CompiledPlan, pathLevelsMax, type PathNode, type ScanPlan, toCompiled } from './scan-plan.ts';
import { closingQuoteIn, escapedByte, hexValue, measureStringIn, pieceBytesMax, quoteOrBackslashIn, savedBytes, stage, stageStart } from './stage.ts';

/** Bytes of a body, from `start` up to `end`, which is not one of them. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/**
 * `scanning`: more bytes are needed. Final states: `done`, all that was asked is known (at the latest at the object's closing
 * brace; what follows it is not looked at); `malformed`, not a JSON object; `truncated`, the body ended within the object, or had
 * none; `over-limit`, `scanBytesMax` was not enough. In the last three what was found before still stands; the caller decides
 * what it is worth.
 */
export type ScanStatus = 'scanning' | 'done' | 'malformed' | 'truncated' | 'over-limit';

/** Containers open at once, the top-level object included; more is malformed. */
const DEPTH_MAX = 512;
/** Decoded bytes of a key that can match; longer keys are passed over. */
const KEY_BYTES_MAX = 256;
/** Decoded bytes of an asked string; a longer one counts as absent. */
const VALUE_BYTES_MAX = 1024;
/** Characters of a string with which a field counts as answered, so that its alternatives need no answer: what any fact may have. */
const ENOUGH_CHARS_MAX = 256;
/** Characters of a number, where numbers are looked at; a longer one is malformed. */
const NUMBER_CHARS_MAX = 32;
/** A string under a media key that is longer than this and has no space is not text. */
const MEDIA_BYTES_MIN = 256;

const SPACE = 0x20;
const QUOTE = 0x22;
const COMMA = 0x2c;
const MINUS = 0x2d;
const COLON = 0x3a;
const OPEN_BRACKET = 0x5b;
const BACKSLASH = 0x5c;
const CLOSE_BRACKET = 0x5d;
const LETTER_F = 0x66;
const LETTER_N = 0x6e;
const LETTER_T = 0x74;
const LETTER_U = 0x75;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;

// States of the automaton: what the next byte belongs to.
/** Before the top-level object, at the body's first byte; AT_BOM_2 and AT_BOM_3 are inside a UTF-8 byte order mark. */
const AT_BODY = 0;
const AT_BOM_2 = 1;
const AT_BOM_3 = 2;
const AT_TOP = 3;
const AT_FIRST_KEY = 4;
const AT_KEY = 5;
const AT_COLON = 6;
const AT_FIRST_ELEMENT = 7;
const AT_VALUE = 8;
const AFTER_VALUE = 9;
/** Inside a string whose contents matter: kept (a key, an asked value), measured, or both. */
const IN_STRING = 10;
/** Inside a string of which only the end matters. */
const IN_SKIPPED_STRING = 11;
const IN_NUMBER = 12;
const IN_LITERAL = 13;
/** Inside a container nobody asked about: quotes and brackets only. */
const IN_SKIPPED_CONTAINER = 14;

// Bits of the container stack.
const ARRAY = 0;
const OBJECT = 1;

// Progress through an escape sequence: none, after the backslash, then the four hex digits of \uXXXX to come.
const ESCAPE_NONE = 0;
const ESCAPE_LETTER = 1;
const ESCAPE_HEX_FIRST = 2;
const ESCAPE_HEX_LAST = 5;

/** In place of a position on the stage: below any. */
const NOT_SEARCHED = -1;

// Numbers (RFC 8259 section 6): one row per state, one column per kind of character.
const NUMBER_OTHER = 0;
const NUMBER_BAD = 9;
const NUMBER_KIND = new Uint8Array(256);
for (const [kind, characters] of ['', '-', '+', '0', '123456789', '.', 'eE'].entries()) {
  for (const character of characters) NUMBER_KIND[character.charCodeAt(0)] = kind;
}
const NUMBER_COLUMNS = 7;
const NUMBER_START = 0;
// prettier-ignore
const NUMBER_NEXT = Uint8Array.from([
  // other  -  +  0  1-9  .  e
        9,  1, 9, 2, 3,   9, 9, // 0 start
        9,  9, 9, 2, 3,   9, 9, // 1 minus
        9,  9, 9, 9, 9,   4, 6, // 2 zero
        9,  9, 9, 3, 3,   4, 6, // 3 integer
        9,  9, 9, 5, 5,   9, 9, // 4 point
        9,  9, 9, 5, 5,   9, 6, // 5 fraction
        9,  7, 7, 8, 8,   9, 9, // 6 exponent mark
        9,  9, 9, 8, 8,   9, 9, // 7 exponent sign
        9,  9, 9, 8, 8,   9, 9, // 8 exponent
]);
/** Whether a number may end in this state. */
const NUMBER_COMPLETE: readonly boolean[] = [false, false, true, true, false, true, false, false, true];

const TRUE = Buffer.from('true');
const FALSE = Buffer.from('false');
const NULL = Buffer.from('null');
const NOTHING = Buffer.alloc(0);
const NO_HASHES: readonly number[] = [];

/** What is scanned. The compiler takes a constant of this file for one, but not an imported one. */
const bytes = stage;

const DATA_URL_START = Buffer.from('data:');

/**
 * Keys under which the OpenAI and Anthropic APIs carry media: `image_url.url`, or `image_url` itself in the Responses API,
 * `input_audio.data`, `source.data`, `file.file_data`, `b64_json`.
 */
const MEDIA_KEYS = ['url', 'data', 'file_data', 'b64_json', 'image_url'];
const MEDIA_KEYS_BY_LENGTH: readonly (readonly Buffer[])[] = Array.from({ length: KEY_BYTES_MAX + 1 }, (_, length) =>
  MEDIA_KEYS.filter((key) => key.length === length).map((key) => Buffer.from(key)),
);

/** Reads one request body by one plan. Keeps no reference to the chunks it is given. */
export class BodyScanner {
  readonly #plan: CompiledPlan;
  readonly #scanBytesMax: number;
  readonly #prefix: PrefixHasher | undefined;
  #current: ScanStatus = 'scanning';
  #bytesSeen = 0;
  /** Added to a position on the stage, it gives the place in the body. */
  #stageOffset = 0;

  // Answers, by node id.
  readonly #values: (string | number | boolean | undefined)[];
  /** Where the strings among them stand, quotes included; made with the first of them. */
  #ranges: (ByteRange | undefined)[] | undefined;
  /** Whether the answer to a node is known: its value is over, or its parent closed without it. */
  readonly #settled: boolean[];
  /** Whether the answer to a field is not waited for, since an alternative has one; made with the first of them. */
  #obsolete: boolean[] | undefined;
  #fieldsPending: number;
  /** Bytes of prompt text in strings that are over. */
  #textBytes = 0;

  // The automaton.
  #state = AT_BODY;
  #depth = 0;
  /** One bit per open container: ARRAY or OBJECT. */
  readonly #kinds = new Uint32Array(DEPTH_MAX / 32);
  /** The node whose value the container at a depth is; undefined: not on an asked path. Deeper than this nothing can be asked. */
  readonly #nodeAtDepth: (PathNode | undefined)[] = [undefined, undefined, undefined, undefined, undefined, undefined];
  /** The node of the value to come, or in progress. */
  #valueNode: PathNode | undefined;
  /** Whether the value to come, at depth 1, is prompt text. */
  #valueIsPrompt = false;
  /** Inside the value of a prompt field. */
  #inPrompt = false;
  /** Inside the value of a prompt field, and its text is to be measured. */
  #measuring = false;
  /** The depth of the container being skipped; 0: none. */
  #skippedDepth = 0;

  // The string in progress.
  #stringIsKey = false;
  /** Where in the body the opening quote of the last asked string stands. */
  #valueStart = 0;
  #escape = ESCAPE_NONE;
  #escapedUnit = 0;
  /** The high surrogate that an escape just before this point stood for; 0: none. */
  #highSurrogate = 0;
  /** Decoded bytes. A surrogate alone counts 3, as the replacement character it will become. */
  #stringBytes = 0;
  /** Whether the string's decoded bytes go to `kept`. */
  #keeping = false;
  #kept: Buffer | undefined;
  #keptBytes = 0;
  /** Whether the string's key can carry media. */
  #underMediaKey = false;
  /** Bytes of `data:` the string has begun with; -1: it begins otherwise. */
  #dataUrlBytes = 0;
  #hasSpace = false;

  // The number or literal in progress.
  #numberState = NUMBER_START;
  #numberChars = 0;
  /** The asked number's characters from earlier chunks. */
  #numberText = '';
  #literal: Buffer = NULL;
  #literalBytes = 0;

  // The current piece of a chunk, by positions on the stage.
  #pieceEnd = 0;
  /** Where the scan stops at the latest: its end, or the end of the last wanted prefix block if nothing else is wanted. */
  #stopAt = 0;
  /** Where the prompt bytes begin that are not hashed yet. */
  #unhashedFrom = 0;
  /** The next space at or after the last place asked about, so that searches go over the piece once. */
  #nextSpace = NOT_SEARCHED;

  /** @throws RangeError if the plan is not sound (a programming error: configuration is checked before). */
  constructor(plan: ScanPlan) {
    const compiled = toCompiled(plan);
    this.#plan = compiled;
    this.#scanBytesMax = plan.scanBytesMax;
    this.#prefix = compiled.wantPrefix ? new PrefixHasher(plan.prefixBlockBytes, plan.prefixBlocksMax, plan.prefixSeed) : undefined;
    this.#values = compiled.noValues.slice();
    this.#settled = compiled.noneSettled.slice();
    this.#fieldsPending = compiled.fieldCount;
    this.#finishIfAnswered();
  }

  get status(): ScanStatus {
    return this.#current;
  }

  /**
   * UTF-8 bytes of prompt text seen so far: the decoded contents of strings (not keys, not punctuation, not numbers), without base64
   * media: strings under the keys `url`, `data`, `file_data`, `b64_json` or `image_url` that start with `data:` or that are longer than
   * 256 bytes without a space. 0 unless the plan wants it.
   */
  get promptBytes(): number {
    const unfinished = this.#state === IN_STRING && this.#measuring && !this.#stringIsKey && !this.#isMedia();
    return this.#textBytes + (unfinished ? this.#stringBytes : 0);
  }

  /**
   * Chained hashes of the prompt's whole blocks so far, each below 2^53. The prompt's bytes are the raw bytes of the prompt
   * fields' values in order of appearance, each without its closing bracket or quote: so a `messages` array that grows keeps
   * all its blocks but the one its end was in. Equal beginnings give equal leading hashes. Not cryptographic: a client can make
   * prompts collide.
   */
  get prefixHashes(): readonly number[] {
    return this.#prefix?.hashes ?? NO_HASHES;
  }

  /** Whether the plan has that path. */
  looksFor(path: string): boolean {
    return this.#plan.idByPath.has(path);
  }

  /**
   * A scalar found at one of the plan's paths. Absent (`undefined`) are: null, objects, arrays, strings longer than 1024 bytes,
   * strings that are not valid Unicode, numbers beyond a double's range, and fields seen more than once (themselves or an object on
   * their path) before the scan ended, because servers disagree on which one counts.
   */
  field(path: string): string | number | boolean | undefined {
    const id = this.#plan.idByPath.get(path);
    return id === undefined ? undefined : this.#values[id];
  }

  /** Where in the body the string that {@link field} gives stands, quotes included; undefined: it is absent, or no string. */
  fieldRange(path: string): ByteRange | undefined {
    const id = this.#plan.idByPath.get(path);
    return id === undefined || typeof this.#values[id] !== 'string' ? undefined : this.#ranges?.[id];
  }

  /** Where in the body an asked string stands (its opening quote) whose end has not come yet; undefined: there is none. */
  get openFieldStart(): number | undefined {
    return this.#current === 'scanning' && this.#state === IN_STRING && this.#keeping && !this.#stringIsKey ? this.#valueStart : undefined;
  }

  /** Feeds the next chunk, of any size. Once a status other than `scanning` was returned, chunks are ignored. Never throws. */
  push(chunk: Uint8Array): ScanStatus {
    if (this.#current !== 'scanning') return this.#current;
    const isOver = chunk.length > this.#scanBytesMax - this.#bytesSeen;
    const length = isOver ? this.#scanBytesMax - this.#bytesSeen : chunk.length;
    for (let from = 0; from < length && this.#isScanning(); from += pieceBytesMax) {
      const to = Math.min(length, from + pieceBytesMax);
      bytes.set(to - from === chunk.length ? chunk : chunk.subarray(from, to), stageStart);
      this.#stageOffset = this.#bytesSeen - stageStart;
      this.#bytesSeen += to - from;
      this.#scan(stageStart + to - from);
    }
    if (isOver && this.#isScanning()) this.#current = 'over-limit';
    return this.#current;
  }

  /** The body is over: a scan still going on becomes `truncated` (a whole object has ended it before). */
  end(): ScanStatus {
    if (this.#current === 'scanning') this.#current = 'truncated';
    return this.#current;
  }

  // A method, because the compiler would take `current` to be what it was before a call that changes it.
  #isScanning(): boolean {
    return this.#current === 'scanning';
  }

  /** Goes through the piece that is on the stage up to `end`. */
  #scan(end: number): void {
    this.#pieceEnd = end;
    // No search for a space goes further.
    bytes[end] = SPACE;
    this.#unhashedFrom = stageStart;
    this.#nextSpace = NOT_SEARCHED;
    this.#limitScan();
    let pos = stageStart;
    while (pos < this.#stopAt && this.#current === 'scanning') {
      const state = this.#state;
      if (state >= IN_STRING) {
        pos = this.#scanWithin(state, pos);
        continue;
      }
      const byte = bytes[pos]!;
      if (byte <= SPACE && isWhitespace(byte)) {
        if (state === AT_BODY) this.#state = AT_TOP;
        else if (state === AT_BOM_2 || state === AT_BOM_3) this.#current = 'malformed';
        pos += 1;
        continue;
      }
      switch (state) {
        case AT_VALUE:
          pos = this.#startValue(pos, byte);
          break;
        case AFTER_VALUE:
          if (byte === COMMA) {
            pos += 1;
            if (this.#innermostKind() === ARRAY) this.#state = AT_VALUE;
            else if (pos < this.#stopAt && bytes[pos] === QUOTE) pos = this.#startKey(pos + 1);
            else this.#state = AT_KEY;
          } else {
            pos = this.#closeContainer(pos, byte);
          }
          break;
        case AT_COLON:
          if (byte !== COLON) {
            this.#current = 'malformed';
          } else {
            this.#state = AT_VALUE;
            pos += 1;
          }
          break;
        case AT_KEY:
          if (byte !== QUOTE) this.#current = 'malformed';
          else pos = this.#startKey(pos + 1);
          break;
        case AT_FIRST_KEY:
          if (byte === QUOTE) pos = this.#startKey(pos + 1);
          else if (byte === CLOSE_BRACE) pos = this.#closeContainer(pos, byte);
          else this.#current = 'malformed';
          break;
        case AT_FIRST_ELEMENT:
          pos = byte === CLOSE_BRACKET ? this.#closeContainer(pos, byte) : this.#startValue(pos, byte);
          break;
        default:
          pos = this.#scanStart(pos, byte);
      }
    }
    // Hash what this piece brought, up to the place of an error if there was one.
    if (this.#inPrompt) this.#hashUpTo(pos);
    if (this.#current === 'scanning') this.#finishIfAnswered();
  }

  /** Goes on within a value or a key. */
  #scanWithin(state: number, pos: number): number {
    switch (state) {
      case IN_STRING:
        return this.#scanString(pos);
      case IN_SKIPPED_STRING:
        return this.#scanSkippedString(pos);
      case IN_NUMBER:
        return this.#scanNumber(pos);
      case IN_LITERAL:
        return this.#scanLiteral(pos);
      default:
        return this.#scanSkippedContainer(pos);
    }
  }

  /** What comes before the top-level object's first key. */
  #scanStart(pos: number, byte: number): number {
    if (this.#state === AT_BODY && byte === 0xef) {
      this.#state = AT_BOM_2;
    } else if (this.#state === AT_BOM_2 && byte === 0xbb) {
      this.#state = AT_BOM_3;
    } else if (this.#state === AT_BOM_3 && byte === 0xbf) {
      this.#state = AT_TOP;
    } else if ((this.#state === AT_BODY || this.#state === AT_TOP) && byte === OPEN_BRACE) {
      this.#valueNode = this.#plan.root;
      this.#openContainer(OBJECT);
      this.#state = AT_FIRST_KEY;
    } else {
      this.#current = 'malformed';
      return pos;
    }
    return pos + 1;
  }

  /** The opening quote of a key was before `pos`. */
  #startKey(pos: number): number {
    this.#underMediaKey = false;
    const quote = plainStringEnd(pos, Math.min(this.#stopAt, pos + KEY_BYTES_MAX + 1));
    if (quote !== -1) {
      this.#matchKey(bytes, pos, quote);
      const colon = quote + 1;
      if (colon >= this.#stopAt || bytes[colon] !== COLON) return colon;
      // Most often it follows at once.
      this.#state = AT_VALUE;
      return colon + 1;
    }
    this.#stringIsKey = true;
    this.#startString(true);
    return pos;
  }

  #endKey(): void {
    this.#state = AT_COLON;
    this.#valueNode = undefined;
    this.#valueIsPrompt = false;
  }

  /** A key is over and stands decoded in `source[from, to)`. */
  #matchKey(source: Buffer, from: number, to: number): void {
    this.#endKey();
    if (this.#measuring) this.#underMediaKey = isMediaKey(source, from, to);
    const parent = this.#depth <= pathLevelsMax ? this.#nodeAtDepth[this.#depth] : undefined;
    if (parent === undefined) return;
    for (const node of parent.children) {
      if (!equalsBytes(source, from, to, node.key)) continue;
      this.#valueIsPrompt = node.isPrompt;
      if (!this.#settled[node.id]) {
        this.#valueNode = node;
      } else {
        // A second one: nobody can tell which one the server will take, so neither counts, nor does anything below them.
        for (let id = node.id; id < node.idEnd; id += 1) this.#values[id] = undefined;
      }
      return;
    }
  }

  #startValue(pos: number, byte: number): number {
    if (this.#depth === 1 && this.#valueIsPrompt) this.#enterPrompt(pos);
    switch (byte) {
      case QUOTE:
        return this.#startStringValue(pos + 1);
      case OPEN_BRACE: {
        const isWanted = this.#measuring || (this.#valueNode !== undefined && this.#valueNode.children.length > 0);
        if (this.#openContainer(OBJECT)) this.#enterContainer(isWanted, AT_FIRST_KEY);
        break;
      }
      case OPEN_BRACKET:
        if (this.#openContainer(ARRAY)) this.#enterContainer(this.#measuring, AT_FIRST_ELEMENT);
        break;
      case LETTER_T:
        this.#startLiteral(TRUE);
        break;
      case LETTER_F:
        this.#startLiteral(FALSE);
        break;
      case LETTER_N:
        this.#startLiteral(NULL);
        break;
      default:
        if (byte !== MINUS && !(byte >= 0x30 && byte <= 0x39)) {
          this.#current = 'malformed';
          return pos;
        }
        this.#state = IN_NUMBER;
        this.#numberState = NUMBER_START;
        this.#numberChars = 0;
        this.#numberText = '';
        return pos;
    }
    return this.#current === 'scanning' ? pos + 1 : pos;
  }

  /** A value is over; `node` is the asked path it was at. `textEnd` is where its bytes end, without a closing bracket or quote. */
  #endValue(textEnd: number, node: PathNode | undefined): void {
    this.#state = AFTER_VALUE;
    this.#valueNode = undefined;
    this.#underMediaKey = false;
    const endsPrompt = this.#inPrompt && this.#depth === 1;
    if (endsPrompt) {
      this.#hashUpTo(textEnd);
      this.#inPrompt = false;
      this.#measuring = false;
    }
    if (node !== undefined) this.#settle(node);
    if (!endsPrompt && node === undefined) return;
    this.#finishIfAnswered();
    this.#limitScan();
  }

  /** The value at `node` is over, so what was not found below it is not there. */
  #settle(node: PathNode): void {
    for (let id = node.id; id < node.idEnd; id += 1) {
      if (this.#settled[id]) continue;
      this.#settled[id] = true;
      if (this.#plan.nodes[id]!.isField && this.#obsolete?.[id] !== true) this.#fieldsPending -= 1;
    }
    const obsolete = this.#plan.obsolete[node.id];
    if (obsolete === undefined || !isEnough(this.#values[node.id])) return;
    for (const id of obsolete) {
      if (this.#settled[id] || this.#obsolete?.[id] === true) continue;
      (this.#obsolete ??= [])[id] = true;
      this.#fieldsPending -= 1;
    }
  }

  #finishIfAnswered(): void {
    const isAnswered =
      this.#fieldsPending === 0 && !this.#plan.toEnd && !this.#plan.wantPromptBytes && (this.#prefix === undefined || this.#prefix.isFull);
    if (isAnswered) this.#current = 'done';
  }

  // Containers.

  /** False: too deep. */
  #openContainer(kind: typeof ARRAY | typeof OBJECT): boolean {
    const depth = this.#depth;
    if (depth === DEPTH_MAX) {
      this.#current = 'malformed';
      return false;
    }
    const word = depth >>> 5;
    const bit = 1 << (depth & 31);
    this.#kinds[word] = kind === OBJECT ? this.#kinds[word]! | bit : this.#kinds[word]! & ~bit;
    this.#depth = depth + 1;
    if (depth <= pathLevelsMax) this.#nodeAtDepth[depth + 1] = this.#valueNode;
    this.#valueNode = undefined;
    this.#underMediaKey = false;
    return true;
  }

  /** A container was opened: walk through it from `state` on, or skip it. */
  #enterContainer(isWanted: boolean, state: number): void {
    this.#state = isWanted ? state : IN_SKIPPED_CONTAINER;
    this.#skippedDepth = isWanted ? 0 : this.#depth;
  }

  #innermostKind(): number {
    const top = this.#depth - 1;
    return (this.#kinds[top >>> 5]! >>> (top & 31)) & 1;
  }

  /** `byte` should close the innermost container, which is not a skipped one. Returns the position after it. */
  #closeContainer(pos: number, byte: number): number {
    if (byte !== (this.#innermostKind() === OBJECT ? CLOSE_BRACE : CLOSE_BRACKET)) {
      this.#current = 'malformed';
      return pos;
    }
    const depth = this.#depth;
    this.#depth = depth - 1;
    if (depth === 1) {
      // The whole object was seen. What may follow is not looked at, so that the answer need not wait for the end of the stream.
      this.#current = 'done';
    } else {
      this.#endValue(pos, depth <= pathLevelsMax + 1 ? this.#nodeAtDepth[depth] : undefined);
    }
    return pos + 1;
  }

  #scanSkippedContainer(from: number): number {
    let pos = from;
    const end = this.#stopAt;
    while (pos < end) {
      const byte = bytes[pos]!;
      if (byte === QUOTE) {
        const plainEnd = shortPlainStringEnd(pos + 1, end);
        pos = plainEnd === -1 ? this.#skipString(pos + 1) : plainEnd;
        if (pos === -1) {
          this.#state = IN_SKIPPED_STRING;
          return end;
        }
      } else if (byte >= OPEN_BRACKET) {
        if (byte === OPEN_BRACE || byte === OPEN_BRACKET) {
          if (!this.#openContainer(byte === OPEN_BRACE ? OBJECT : ARRAY)) return pos;
        } else if (byte === CLOSE_BRACE || byte === CLOSE_BRACKET) {
          if (this.#depth === this.#skippedDepth) {
            this.#skippedDepth = 0;
            return this.#closeContainer(pos, byte);
          }
          if (byte !== (this.#innermostKind() === OBJECT ? CLOSE_BRACE : CLOSE_BRACKET)) {
            this.#current = 'malformed';
            return pos;
          }
          this.#depth -= 1;
        }
      }
      pos += 1;
    }
    return pos;
  }

  // Strings.

  /** The opening quote of a string value was before `pos`. */
  #startStringValue(pos: number): number {
    const node = this.#valueNode;
    const isAsked = node !== undefined && node.isField;
    if (isAsked) this.#valueStart = this.#stageOffset + pos - 1;
    if (isAsked && !this.#underMediaKey) {
      const quote = plainStringEnd(pos, Math.min(this.#stopAt, pos + VALUE_BYTES_MAX + 1));
      if (quote !== -1) {
        this.#values[node.id] = decodeText(bytes, pos, quote);
        this.#keepRange(node, quote);
        if (this.#measuring) this.#textBytes += quote - pos;
        this.#endValue(quote, node);
        return quote + 1;
      }
    }
    if (this.#measuring && !isAsked && !this.#underMediaKey) {
      const end = measureStringIn(pos, this.#stopAt);
      const textBytes = end - pos - savedBytes[0]!;
      if (end < this.#stopAt && bytes[end] === QUOTE) {
        this.#textBytes += textBytes;
        this.#endValue(end, node);
        return end + 1;
      }
      this.#stringIsKey = false;
      this.#startString(false);
      this.#stringBytes = textBytes;
      return end;
    }
    this.#stringIsKey = false;
    this.#startString(isAsked);
    return pos;
  }

  #startString(keeping: boolean): void {
    this.#state = keeping || this.#measuring ? IN_STRING : IN_SKIPPED_STRING;
    this.#keeping = keeping;
    this.#keptBytes = 0;
    this.#highSurrogate = 0;
    this.#stringBytes = 0;
    this.#dataUrlBytes = 0;
    this.#hasSpace = false;
  }

  /** Goes on within a string whose contents matter; returns where it ended, or came to be skipped, or the piece's end. */
  #scanString(from: number): number {
    const end = this.#stopAt;
    let pos = from;
    const isOnlyMeasured = !this.#keeping && !this.#underMediaKey;
    while (pos < end) {
      if (this.#escape !== ESCAPE_NONE) {
        pos = this.#scanEscape(pos);
      } else if (isOnlyMeasured && this.#highSurrogate === 0) {
        pos = this.#measureString(pos);
        if (pos === end) return pos;
        if (bytes[pos] === QUOTE) {
          this.#endString(pos);
          return pos + 1;
        }
        pos = this.#scanWholeEscape(pos);
      } else if (bytes[pos] === BACKSLASH) {
        pos = this.#scanWholeEscape(pos);
      } else {
        const plainEnd = quoteOrBackslashIn(pos, end);
        if (plainEnd > pos) pos = this.#takePlain(pos, plainEnd);
        if (pos === plainEnd && pos < end && this.#state === IN_STRING && bytes[pos] === QUOTE) {
          this.#endString(pos);
          return pos + 1;
        }
      }
      if (this.#state !== IN_STRING || this.#current !== 'scanning') return pos;
    }
    return pos;
  }

  /**
   * The quick way through a string that is only measured. Stops at the closing quote, where the scan stops, or at an escape sequence that
   * is not sound, not wholly in the piece, or the first half of what may be a surrogate pair cut by the piece's end.
   */
  #measureString(from: number): number {
    const end = this.#stopAt;
    let pos = from;
    // How much shorter the decoded text is than what was written.
    let saved = 0;
    for (;;) {
      pos = measureStringIn(pos, end);
      saved += savedBytes[0]!;
      // Of what it stops at, surrogates alone are passed over here.
      if (pos + 12 > end || bytes[pos] !== BACKSLASH || bytes[pos + 1] !== LETTER_U) break;
      const unit = hexUnit(pos + 2);
      if (unit < 0) break;
      const isPaired =
        (unit & 0xfc00) === 0xd800 && bytes[pos + 6] === BACKSLASH && bytes[pos + 7] === LETTER_U && (hexUnit(pos + 8) & ~0x3ff) === 0xdc00;
      pos += isPaired ? 12 : 6;
      saved += isPaired ? 8 : 3;
    }
    this.#stringBytes += pos - from - saved;
    return pos;
  }

  /** An escape sequence from its backslash on, if it is sound and wholly in the piece; otherwise only the backslash. */
  #scanWholeEscape(pos: number): number {
    const end = this.#stopAt;
    if (pos + 2 <= end) {
      const letter = bytes[pos + 1]!;
      const byte = escapedByte[letter]!;
      if (byte !== 0) {
        this.#takeUnit(byte);
        return pos + 2;
      }
      if (letter === LETTER_U && pos + 6 <= end) {
        const unit = hexUnit(pos + 2);
        if (unit >= 0) {
          this.#takeUnit(unit);
          return pos + 6;
        }
      }
    }
    this.#escape = ESCAPE_LETTER;
    return pos + 1;
  }

  /** The rest of an escape sequence from its letter on. */
  #scanEscape(from: number): number {
    const end = this.#stopAt;
    let pos = from;
    if (this.#escape === ESCAPE_LETTER) {
      const letter = bytes[pos]!;
      if (letter !== LETTER_U) {
        const byte = escapedByte[letter]!;
        if (byte === 0) {
          this.#current = 'malformed';
          return pos;
        }
        this.#escape = ESCAPE_NONE;
        this.#takeUnit(byte);
        return pos + 1;
      }
      this.#escape = ESCAPE_HEX_FIRST;
      this.#escapedUnit = 0;
      pos += 1;
    }
    while (pos < end) {
      const digit = hexValue[bytes[pos]!]!;
      if (digit < 0) {
        this.#current = 'malformed';
        return pos;
      }
      this.#escapedUnit = (this.#escapedUnit << 4) | digit;
      pos += 1;
      if (this.#escape === ESCAPE_HEX_LAST) {
        this.#escape = ESCAPE_NONE;
        this.#takeUnit(this.#escapedUnit);
        return pos;
      }
      this.#escape += 1;
    }
    return pos;
  }

  /** Takes bytes that stand for themselves. Returns `to`, or the place of a control character, which makes the body malformed. */
  #takePlain(from: number, to: number): number {
    this.#highSurrogate = 0;
    if (this.#keeping) {
      const limit = this.#stringIsKey ? KEY_BYTES_MAX : VALUE_BYTES_MAX;
      const kept = (this.#kept ??= Buffer.allocUnsafe(VALUE_BYTES_MAX));
      for (let pos = from; pos < to; pos += 1) {
        const byte = bytes[pos]!;
        if (byte < SPACE) {
          this.#current = 'malformed';
          this.#stringBytes += pos - from;
          return pos;
        }
        if (this.#keptBytes === limit) {
          this.#stopKeeping();
          break;
        }
        kept[this.#keptBytes] = byte;
        this.#keptBytes += 1;
      }
    }
    this.#stringBytes += to - from;
    if (this.#underMediaKey) this.#lookForMedia(from, to);
    return to;
  }

  /** Takes a UTF-16 code unit that was escaped. */
  #takeUnit(unit: number): void {
    const isPaired = this.#highSurrogate !== 0 && (unit & 0xfc00) === 0xdc00;
    // The high surrogate has been counted as 3 bytes, and the pair has 4.
    const unitBytes = isPaired ? 1 : unit < 0x80 ? 1 : unit < 0x800 ? 2 : 3;
    this.#stringBytes += unitBytes;
    if (this.#keeping) {
      if (this.#keptBytes + unitBytes > (this.#stringIsKey ? KEY_BYTES_MAX : VALUE_BYTES_MAX)) this.#stopKeeping();
      else this.#keepUnit(unit, isPaired);
    }
    this.#highSurrogate = (unit & 0xfc00) === 0xd800 ? unit : 0;
    if (this.#underMediaKey) {
      if (unit === SPACE) this.#hasSpace = true;
      if (this.#dataUrlBytes >= 0 && this.#dataUrlBytes < DATA_URL_START.length) this.#matchDataUrl(unit);
    }
  }

  /** Appends a code unit in UTF-8. A surrogate alone becomes three bytes that no UTF-8 check will pass, and that match no key. */
  #keepUnit(unit: number, isPaired: boolean): void {
    const kept = (this.#kept ??= Buffer.allocUnsafe(VALUE_BYTES_MAX));
    let at = this.#keptBytes;
    if (isPaired) {
      const codePoint = 0x10000 + ((this.#highSurrogate & 0x3ff) << 10) + (unit & 0x3ff);
      at -= 3;
      kept[at++] = 0xf0 | (codePoint >> 18);
      kept[at++] = 0x80 | ((codePoint >> 12) & 0x3f);
      kept[at++] = 0x80 | ((codePoint >> 6) & 0x3f);
      kept[at++] = 0x80 | (codePoint & 0x3f);
    } else if (unit < 0x80) {
      kept[at++] = unit;
    } else if (unit < 0x800) {
      kept[at++] = 0xc0 | (unit >> 6);
      kept[at++] = 0x80 | (unit & 0x3f);
    } else {
      kept[at++] = 0xe0 | (unit >> 12);
      kept[at++] = 0x80 | ((unit >> 6) & 0x3f);
      kept[at++] = 0x80 | (unit & 0x3f);
    }
    this.#keptBytes = at;
  }

  /** The string is too long to be kept. */
  #stopKeeping(): void {
    this.#keeping = false;
    if (this.#stringIsKey || !this.#measuring) this.#state = IN_SKIPPED_STRING;
  }

  /** The string whose contents matter ends at `pos`. */
  #endString(pos: number): void {
    if (this.#stringIsKey) {
      this.#matchKey(this.#kept ?? NOTHING, 0, this.#keptBytes);
      return;
    }
    if (this.#measuring && !this.#isMedia()) this.#textBytes += this.#stringBytes;
    const node = this.#valueNode;
    if (this.#keeping && node !== undefined) {
      this.#values[node.id] = decodeText(this.#kept ?? NOTHING, 0, this.#keptBytes);
      this.#keepRange(node, pos);
    }
    this.#endValue(pos, node);
  }

  /** The asked string at `node` ends with the quote at `pos`. */
  #keepRange(node: PathNode, pos: number): void {
    (this.#ranges ??= [])[node.id] = { start: this.#valueStart, end: this.#stageOffset + pos + 1 };
  }

  #scanSkippedString(from: number): number {
    const quote = this.#skipString(from);
    return quote === -1 ? this.#stopAt : this.#endSkippedString(quote);
  }

  /**
   * The closing quote of a string whose contents do not matter; -1 if the piece ends before it. Looks for quotes alone: the backslashes just
   * before one tell whether it is escaped.
   */
  #skipString(from: number): number {
    const end = this.#stopAt;
    let start = from;
    if (this.#escape !== ESCAPE_NONE && start < end) {
      this.#escape = ESCAPE_NONE;
      start += 1;
    }
    const quote = closingQuoteIn(start, end);
    if (quote < end) return quote;
    if (isEscapedAt(start, end)) this.#escape = ESCAPE_LETTER;
    return -1;
  }

  #endSkippedString(pos: number): number {
    if (this.#skippedDepth > 0) {
      this.#state = IN_SKIPPED_CONTAINER;
    } else if (this.#stringIsKey) {
      this.#endKey();
    } else {
      this.#endValue(pos, this.#valueNode);
    }
    return pos + 1;
  }

  // Media within the prompt.

  #isMedia(): boolean {
    if (!this.#underMediaKey) return false;
    return this.#dataUrlBytes === DATA_URL_START.length || (this.#stringBytes > MEDIA_BYTES_MIN && !this.#hasSpace);
  }

  #lookForMedia(from: number, to: number): void {
    for (let pos = from; pos < to && this.#dataUrlBytes >= 0 && this.#dataUrlBytes < DATA_URL_START.length; pos += 1) {
      this.#matchDataUrl(bytes[pos]!);
    }
    if (this.#hasSpace) return;
    if (this.#nextSpace < from) this.#nextSpace = bytes.indexOf(SPACE, from);
    this.#hasSpace = this.#nextSpace < to;
  }

  #matchDataUrl(unit: number): void {
    if (unit !== DATA_URL_START[this.#dataUrlBytes]) {
      this.#dataUrlBytes = -1;
      return;
    }
    this.#dataUrlBytes += 1;
    if (this.#dataUrlBytes === DATA_URL_START.length && !this.#keeping) this.#state = IN_SKIPPED_STRING;
  }

  // Numbers and literals.

  #scanNumber(from: number): number {
    const end = this.#stopAt;
    let pos = from;
    let state = this.#numberState;
    let chars = this.#numberChars;
    while (pos < end) {
      const kind = NUMBER_KIND[bytes[pos]!]!;
      if (kind === NUMBER_OTHER) break;
      state = NUMBER_NEXT[state * NUMBER_COLUMNS + kind]!;
      chars += 1;
      if (state === NUMBER_BAD || chars > NUMBER_CHARS_MAX) {
        this.#current = 'malformed';
        return pos;
      }
      pos += 1;
    }
    const node = this.#valueNode;
    const isAsked = node !== undefined && node.isField;
    if (pos === end) {
      this.#numberState = state;
      this.#numberChars = chars;
      if (isAsked) this.#numberText += bytes.toString('latin1', from, pos);
    } else if (!NUMBER_COMPLETE[state]) {
      this.#current = 'malformed';
    } else {
      if (isAsked) {
        const value = Number(this.#numberText + bytes.toString('latin1', from, pos));
        this.#values[node.id] = Number.isFinite(value) ? value : undefined;
      }
      this.#endValue(pos, node);
    }
    return pos;
  }

  #startLiteral(literal: Buffer): void {
    this.#state = IN_LITERAL;
    this.#literal = literal;
    this.#literalBytes = 1;
  }

  #scanLiteral(from: number): number {
    const literal = this.#literal;
    for (let pos = from; pos < this.#stopAt; pos += 1) {
      if (bytes[pos] !== literal[this.#literalBytes]) {
        this.#current = 'malformed';
        return pos;
      }
      this.#literalBytes += 1;
      if (this.#literalBytes === literal.length) {
        const node = this.#valueNode;
        if (node !== undefined && node.isField && literal !== NULL) this.#values[node.id] = literal === TRUE;
        this.#endValue(pos + 1, node);
        return pos + 1;
      }
    }
    return this.#stopAt;
  }

  // The prompt.

  #enterPrompt(pos: number): void {
    this.#inPrompt = true;
    this.#measuring = this.#plan.wantPromptBytes;
    this.#unhashedFrom = pos;
    this.#limitScan();
  }

  #hashUpTo(pos: number): void {
    if (this.#prefix !== undefined && !this.#prefix.isFull && pos > this.#unhashedFrom) {
      this.#prefix.update(this.#unhashedFrom, pos);
    }
    this.#unhashedFrom = pos;
  }

  /** Sets where to stop: if prefix blocks are all that is still wanted, where the last one ends. */
  #limitScan(): void {
    this.#stopAt = this.#pieceEnd;
    if (this.#prefix === undefined || !this.#inPrompt || this.#fieldsPending > 0 || this.#plan.wantPromptBytes || this.#plan.toEnd) return;
    this.#stopAt = Math.min(this.#pieceEnd, this.#unhashedFrom + this.#prefix.bytesLeft);
  }
}

function isWhitespace(byte: number): boolean {
  return byte === SPACE || byte === 0x0a || byte === 0x0d || byte === 0x09;
}

/** Whether what stands at `at` is escaped: an odd number of backslashes comes just before it, none of them before `start`. */
function isEscapedAt(start: number, at: number): boolean {
  let run = at;
  while (run > start && bytes[run - 1] === BACKSLASH) run -= 1;
  return ((at - run) & 1) === 1;
}

/** Bytes of a string that are looked at one by one: most keys are shorter. */
const SHORT_BYTES = 16;

/** The closing quote of a short string without escapes; -1 if it is not short, has one, or does not end before `end`. */
function shortPlainStringEnd(from: number, end: number): number {
  const last = Math.min(end, from + SHORT_BYTES);
  for (let pos = from; pos < last; pos += 1) {
    const byte = bytes[pos]!;
    if (byte === QUOTE) return pos;
    if (byte === BACKSLASH) return -1;
  }
  return -1;
}

/** The code unit that four hex digits stand for; negative: they are not all hex digits. */
function hexUnit(from: number): number {
  const high = (hexValue[bytes[from]!]! << 12) | (hexValue[bytes[from + 1]!]! << 8);
  return high | (hexValue[bytes[from + 2]!]! << 4) | hexValue[bytes[from + 3]!]!;
}

/** The closing quote of a string that has neither escapes nor control characters up to it; -1 if that cannot be told within [from, to). */
function plainStringEnd(from: number, to: number): number {
  for (let pos = from; pos < to; pos += 1) {
    const byte = bytes[pos]!;
    if (byte === QUOTE) return pos;
    if (byte === BACKSLASH || byte < SPACE) return -1;
  }
  return -1;
}

/** The UTF-8 text of [from, to), or undefined if it is not valid. */
function decodeText(source: Buffer, from: number, to: number): string | undefined {
  let seen = 0;
  for (let pos = from; pos < to; pos += 1) seen |= source[pos]!;
  if (seen < 0x80) return source.toString('latin1', from, to);
  return isUtf8(source.subarray(from, to)) ? source.toString('utf8', from, to) : undefined;
}

function equalsBytes(source: Buffer, from: number, to: number, other: Buffer): boolean {
  if (to - from !== other.length) return false;
  for (let i = 0; i < other.length; i += 1) {
    if (source[from + i] !== other[i]) return false;
  }
  return true;
}

function isMediaKey(source: Buffer, from: number, to: number): boolean {
  const candidates = MEDIA_KEYS_BY_LENGTH[to - from];
  if (candidates === undefined) return false;
  for (let i = 0; i < candidates.length; i += 1) {
    if (equalsBytes(source, from, to, candidates[i]!)) return true;
  }
  return false;
}

/** Whether a value is one that a fact can be. */
function isEnough(value: string | number | boolean | undefined): boolean {
  return typeof value === 'number' || (typeof value === 'string' && value.length > 0 && value.length <= ENOUGH_CHARS_MAX);
}

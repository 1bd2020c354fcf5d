import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BodyScanner } from '../../src/extproc/body-scanner.ts';
import type { ScanStatus } from '../../src/extproc/body-scanner.ts';
import type { ScanPlan } from '../../src/extproc/scan-plan.ts';

/** A JSON document as written: unlike a parsed one it can repeat keys. */
type Doc =
  | { kind: 'literal'; value: boolean | null }
  | { kind: 'number'; text: string }
  | { kind: 'string'; value: string }
  | { kind: 'array'; elements: Doc[] }
  | DocObject;
interface DocObject {
  kind: 'object';
  entries: [key: string, value: Doc][];
}

const asciiKeys = ['model', 'user', 'metadata', 'messages', 'input', 'a', 'b', 'url', 'data', '__proto__', 'constructor'];
const fieldPool = [
  ...['model', 'user', 'metadata', 'metadata.user', 'metadata.a.b.user', 'input', 'messages.url'],
  ...['__proto__', 'constructor', 'é', 'absent'],
];
const promptPool = ['messages', 'input', 'user', '__proto__', 'url'];

const key = fc.oneof(
  { weight: 9, arbitrary: fc.constantFrom(...asciiKeys, 'é', '') },
  { weight: 1, arbitrary: fc.string({ unit: 'binary' }) },
);
const text = fc.oneof(
  { weight: 6, arbitrary: fc.string({ unit: 'binary', maxLength: 40 }) },
  { weight: 2, arbitrary: fc.string({ unit: fc.constantFrom('"', '\\', 'n', 'x', '\ud83d', '\ude00', '\n', 'é', '中'), maxLength: 80 }) },
  { weight: 1, arbitrary: fc.string({ unit: fc.constantFrom('A', '9', '+'), minLength: 240, maxLength: 300 }) },
  { weight: 1, arbitrary: fc.string({ unit: fc.constantFrom('A', ' '), minLength: 1000, maxLength: 1050 }) },
  { weight: 1, arbitrary: fc.string({ maxLength: 300 }).map((rest) => `data:${rest}`) },
  { weight: 1, arbitrary: fc.array(fc.constantFrom('a'.repeat(130), '\\', '"', 'b'), { maxLength: 9 }).map((parts) => parts.join('')) },
);
const numberText = fc.oneof(
  fc.integer().map(String),
  fc.double({ noNaN: true, noDefaultInfinity: true }).map((value) => JSON.stringify(value)),
  fc.constantFrom('0', '-0', '1E+2', '0.5e-3', '-1.0e0', '12345678901234567890123456789012'),
);

/** Documents; `isUnique`: no object repeats a key. */
function docArbitrary(isUnique: boolean): fc.Arbitrary<DocObject> {
  return fc.letrec<{ value: Doc; object: DocObject }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 5, withCrossShrink: true },
      { weight: 4, arbitrary: text.map((value): Doc => ({ kind: 'string', value })) },
      { weight: 1, arbitrary: numberText.map((number): Doc => ({ kind: 'number', text: number })) },
      { weight: 1, arbitrary: fc.constantFrom(true, false, null).map((value): Doc => ({ kind: 'literal', value })) },
      { weight: 2, arbitrary: fc.array(tie('value'), { maxLength: 4 }).map((elements): Doc => ({ kind: 'array', elements })) },
      { weight: 4, arbitrary: tie('object') },
    ),
    object: (isUnique
      ? fc.uniqueArray(fc.tuple(key, tie('value')), { maxLength: 6, selector: ([name]) => name })
      : fc.array(fc.tuple(key, tie('value')), { maxLength: 7 })
    ).map((entries): DocObject => ({ kind: 'object', entries })),
  })).object;
}

/** Writes a document; the styles, used in turn, choose where space goes and how characters are escaped. */
class Writer {
  private readonly styles: readonly number[];
  private next = 0;

  constructor(styles: readonly number[]) {
    this.styles = styles;
  }

  value(doc: Doc): string {
    switch (doc.kind) {
      case 'literal':
        return String(doc.value);
      case 'number':
        return doc.text;
      case 'string':
        return this.string(doc.value);
      case 'array':
        return `[${this.space()}${doc.elements.map((element) => this.value(element) + this.space()).join(`,${this.space()}`)}]`;
      case 'object':
        return `{${this.entries(doc).join(',')}${this.space()}}`;
    }
  }

  entries(doc: DocObject): string[] {
    return doc.entries.map(([name, value]) => {
      const written = `${this.space()}${this.string(name)}${this.space()}:${this.space()}`;
      return written + this.value(value) + this.space();
    });
  }

  private style(): number {
    this.next += 1;
    return this.styles[this.next % this.styles.length] ?? 0;
  }

  private space(): string {
    return ['', '', '', ' ', '\n\t ', '\r\n'][this.style() % 6] ?? '';
  }

  private string(value: string): string {
    let out = '"';
    for (const unit of Array.from({ length: value.length }, (_, i) => value.charAt(i))) {
      const plain = JSON.stringify(unit).slice(1, -1);
      const isSurrogate = /[\ud800-\udfff]/.test(unit);
      const hex = `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`;
      if (isSurrogate) out += hex;
      else if (this.style() % 8 === 0) out += this.style() % 2 === 0 ? hex : hex.slice(0, 2) + hex.slice(2).toUpperCase();
      else out += unit === '/' && this.style() % 2 === 0 ? '\\/' : plain;
    }
    // Pairs as raw UTF-8, too: only escapes were written above.
    if (this.style() % 3 === 0) out = out.replaceAll(/\\ud83d\\ude00/gi, '😀');
    return `${out}"`;
  }
}

/** Where to cut; sizes are used in turn. */
const chunkSizes = fc.oneof(
  fc.constant([1]),
  fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 1, maxLength: 9 }).filter((sizes) => sizes.some((size) => size > 0)),
  fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 5 }),
);
const styles = fc.array(fc.nat(47), { minLength: 1, maxLength: 40 });

interface Result {
  status: ScanStatus;
  fields: (string | number | boolean | undefined)[];
  promptBytes: number;
  prefixHashes: number[];
}

function resultOf(scanner: BodyScanner, plan: ScanPlan): Result {
  return {
    status: scanner.status,
    fields: plan.fields.map((path) => scanner.field(path)),
    promptBytes: scanner.promptBytes,
    prefixHashes: [...scanner.prefixHashes],
  };
}

function scanWhole(plan: ScanPlan, body: Uint8Array): Result {
  const scanner = new BodyScanner(plan);
  scanner.push(body);
  scanner.end();
  return resultOf(scanner, plan);
}

function scanChunks(plan: ScanPlan, body: Uint8Array, sizes: readonly number[]): Result {
  const scanner = new BodyScanner(plan);
  let at = 0;
  for (let i = 0; at < body.length; i += 1) {
    const size = sizes[i % sizes.length] ?? 1;
    // A copy that is wiped afterwards: the scanner must not lean on chunks it was given before.
    const chunk = Uint8Array.from(body.subarray(at, at + size));
    scanner.push(chunk);
    chunk.fill(0x7b);
    at += size;
  }
  scanner.end();
  return resultOf(scanner, plan);
}

// The meaning of the scanner's answers, said with whole values in hand.

function expectedField(doc: DocObject, path: string): string | number | boolean | undefined {
  let at: Doc = doc;
  for (const name of path.split('.')) {
    if (at.kind !== 'object') return undefined;
    const found: [string, Doc][] = at.entries.filter(([candidate]) => candidate === name);
    if (found.length !== 1) return undefined;
    at = found[0]![1];
  }
  if (at.kind === 'string') return at.value.isWellFormed() && Buffer.byteLength(at.value) <= 1024 ? at.value : undefined;
  if (at.kind === 'number') return JSON.parse(at.text) as number;
  return at.kind === 'literal' ? (at.value ?? undefined) : undefined;
}

function expectedTextBytes(doc: Doc, underKey = ''): number {
  switch (doc.kind) {
    case 'string': {
      const length = Buffer.byteLength(doc.value);
      const canBeMedia = ['url', 'data', 'file_data', 'b64_json', 'image_url'].includes(underKey);
      return canBeMedia && (doc.value.startsWith('data:') || (length > 256 && !doc.value.includes(' '))) ? 0 : length;
    }
    case 'array':
      return doc.elements.reduce((sum, element) => sum + expectedTextBytes(element), 0);
    case 'object':
      return doc.entries.reduce((sum, [name, value]) => sum + expectedTextBytes(value, name), 0);
    default:
      return 0;
  }
}

function expectedHashes(prompt: Buffer, blockBytes: number, blocksMax: number): number[] {
  const hashes: number[] = [];
  const rotate = (value: number, by: number): number => (value << by) | (value >>> (32 - by));
  const finalize = (lane: number): number => {
    let h = Math.imul(lane ^ (lane >>> 16), 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
    return h ^ (h >>> 16);
  };
  const factors = [0x239b961b, 0xab0e9789, 0x38b34ae5, 0xa1e38b93];
  let lanes = [0, 0, -1, -1];
  for (let from = 0; from + blockBytes <= prompt.length && hashes.length < blocksMax; from += blockBytes) {
    const padded = Buffer.alloc(Math.ceil(blockBytes / 32) * 32);
    prompt.copy(padded, 0, from, from + blockBytes);
    for (let at = 0; at < padded.length; at += 32) {
      const word = (index: number): number => padded.readInt32LE(at + 4 * index);
      lanes = lanes.map((lane, i) => (rotate(Math.imul(lane ^ word(2 * i), factors[i]!), 15 + i) + word(2 * i + 1)) | 0);
    }
    const sumUp = (one: number, ...others: number[]): number[] => {
      const sum = others.reduce((total, lane) => (total + lane) | 0, one);
      return [sum, ...others.map((lane) => (lane + sum) | 0)];
    };
    const [one = 0, ...others] = lanes.map((lane) => lane ^ blockBytes);
    const [first = 0, ...rest] = sumUp(one, ...others).map(finalize);
    lanes = sumUp(first, ...rest);
    hashes.push(Number(BigInt.asUintN(64, (BigInt(lanes[0]! >>> 0) << 32n) | BigInt(lanes[1]! >>> 0)) >> 11n));
  }
  return hashes;
}

const fullPlan = fc
  .record({
    fields: fc.uniqueArray(fc.constantFrom(...fieldPool)),
    promptFields: fc.uniqueArray(fc.constantFrom(...promptPool), { minLength: 1 }),
    prefixBlockBytes: fc.oneof(fc.integer({ min: 0, max: 40 }), fc.constantFrom(64, 128)),
    prefixBlocksMax: fc.oneof(fc.integer({ min: 0, max: 5 }), fc.constant(1000)),
  })
  .map((part): ScanPlan => ({ ...part, wantPromptBytes: true, scanBytesMax: 1 << 20 }));

const anyPlan: fc.Arbitrary<ScanPlan> = fc.record({
  fields: fc.uniqueArray(fc.constantFrom(...fieldPool), { maxLength: 3 }),
  promptFields: fc.uniqueArray(fc.constantFrom(...promptPool)),
  wantPromptBytes: fc.boolean(),
  prefixBlockBytes: fc.integer({ min: 0, max: 40 }),
  prefixBlocksMax: fc.integer({ min: 0, max: 6 }),
  scanBytesMax: fc.oneof({ weight: 3, arbitrary: fc.constant(1 << 20) }, { weight: 1, arbitrary: fc.nat(200) }),
  areAlternatives: fc.boolean(),
}).map(({ areAlternatives, ...plan }) => ({ ...plan, ...(areAlternatives && { alternatives: [plan.fields] }) }));

/** A change to a body: at a place given as a share of its length. */
const edits = fc.array(
  fc.record({
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    removed: fc.nat(3),
    inserted: fc.oneof(
      fc.uint8Array({ maxLength: 3 }),
      fc.constantFrom(...'{}[]",:\\0-1e.tn '.split('')).map((character) => Buffer.from(character)),
    ),
  }),
  { maxLength: 3 },
);

function applyEdits(body: Buffer, changes: readonly { at: number; removed: number; inserted: Uint8Array }[]): Buffer {
  let edited = body;
  for (const { at, removed, inserted } of changes) {
    const place = Math.floor(at * edited.length);
    edited = Buffer.concat([edited.subarray(0, place), inserted, edited.subarray(place + removed)]);
  }
  return edited;
}

describe('body scanner', () => {
  it('reads the fields that JSON.parse would give, however little of the body it looks at', () => {
    fc.assert(
      fc.property(docArbitrary(true), styles, chunkSizes, fc.uniqueArray(fc.constantFrom(...fieldPool)), (doc, style, sizes, fields) => {
        const written = new Writer(style).value(doc);
        const plan = { fields, promptFields: [], wantPromptBytes: false, prefixBlockBytes: 0, prefixBlocksMax: 0, scanBytesMax: 1 << 20 };
        const parsed: unknown = JSON.parse(written);
        const expected = fields.map((path) => {
          let at: unknown = parsed;
          for (const name of path.split('.')) {
            const isObject = typeof at === 'object' && at !== null && !Array.isArray(at);
            at = isObject && Object.hasOwn(at as object, name) ? (at as Record<string, unknown>)[name] : undefined;
          }
          if (typeof at === 'string') return at.isWellFormed() && Buffer.byteLength(at) <= 1024 ? at : undefined;
          return typeof at === 'number' || typeof at === 'boolean' ? at : undefined;
        });
        const result = scanChunks(plan, Buffer.from(written), sizes);
        expect(result).toEqual({ status: 'done', fields: expected, promptBytes: 0, prefixHashes: [] });
      }),
      { numRuns: 300 },
    );
  });

  it('finds the first of alternatives that JSON.parse would, however early it stops', () => {
    const scalars = fc.oneof(fc.constantFrom('x', 'y', 7, '', true, null), fc.record({ user: fc.constantFrom('in', '') }));
    const entry = fc.tuple(fc.constantFrom('model', 'user', 'metadata', 'a', 'b'), scalars);
    fc.assert(
      fc.property(fc.uniqueArray(entry, { selector: ([name]) => name }), chunkSizes, fc.nat(2), (entries, sizes, rest) => {
        const list = ['model', 'metadata.user', 'metadata', 'a'];
        const plan: ScanPlan = {
          fields: [...list, ...['user', 'b'].slice(0, rest)],
          alternatives: [list],
          promptFields: [],
          wantPromptBytes: false,
          prefixBlockBytes: 0,
          prefixBlocksMax: 0,
          scanBytesMax: 1 << 20,
        };
        const body = Object.fromEntries(entries) as Record<string, unknown>;
        const first = (read: (path: string) => unknown): unknown =>
          list.map(read).find((value) => typeof value === 'number' || (typeof value === 'string' && value !== ''));
        const expected = first((path) => (path === 'metadata.user' ? (body['metadata'] as { user?: unknown } | null | undefined)?.user : body[path]));
        const { status, fields } = scanChunks(plan, Buffer.from(JSON.stringify(body)), sizes);
        expect(status).toBe('done');
        expect(first((path) => fields[plan.fields.indexOf(path)])).toBe(expected);
        // What is asked for besides is always read.
        for (const name of plan.fields.slice(list.length)) {
          const value = body[name];
          expect(fields[plan.fields.indexOf(name)]).toBe(typeof value === 'object' ? undefined : value);
        }
      }),
      { numRuns: 300 },
    );
  });

  it('measures and hashes the prompt and refuses repeated fields', () => {
    fc.assert(
      fc.property(docArbitrary(false), styles, chunkSizes, fullPlan, (doc, style, sizes, plan) => {
        const writer = new Writer(style);
        const values = doc.entries.map(([name, value]) => ({ name, value, written: writer.value(value) }));
        const body = `{${values.map(({ name, written }) => `${JSON.stringify(name)} :${written}`).join(' , ')}}`;
        const prompts = values.filter(({ name }) => plan.promptFields.includes(name));
        const hasClosing = (value: Doc): boolean => value.kind !== 'number' && value.kind !== 'literal';
        const raw = Buffer.from(prompts.map(({ value, written }) => (hasClosing(value) ? written.slice(0, -1) : written)).join(''));
        const result = scanChunks(plan, Buffer.from(body), sizes);
        expect(result).toEqual({
          status: 'done',
          fields: plan.fields.map((path) => expectedField(doc, path)),
          promptBytes: prompts.reduce((sum, { value }) => sum + expectedTextBytes(value), 0),
          prefixHashes: plan.prefixBlockBytes === 0 ? [] : expectedHashes(raw, plan.prefixBlockBytes, plan.prefixBlocksMax),
        });
      }),
      { numRuns: 300 },
    );
  });

  it('gives the same result for any chunking, of damaged bodies too', () => {
    fc.assert(
      fc.property(docArbitrary(false), styles, chunkSizes, anyPlan, edits, (doc, style, sizes, plan, changes) => {
        const body = applyEdits(Buffer.from(new Writer(style).value(doc)), changes);
        const whole = scanWhole(plan, body);
        expect(whole.status).not.toBe('scanning');
        expect(scanChunks(plan, body, sizes)).toEqual(whole);
        expect(scanChunks(plan, body, [1])).toEqual(whole);
      }),
      { numRuns: 500 },
    );
  });

  it('accepts what JSON.parse accepts and nothing else where it looks at everything', () => {
    // Control characters inside measured strings and what follows the object are not looked at: the edits add no such bytes.
    const plan: ScanPlan = {
      fields: [],
      promptFields: asciiKeys,
      wantPromptBytes: true,
      prefixBlockBytes: 0,
      prefixBlocksMax: 0,
      scanBytesMax: 1 << 20,
    };
    const value = fc.jsonValue({ maxDepth: 4, stringUnit: fc.constantFrom('a', 'u', '0', '"', '\\', '\n') });
    const plainKey = fc.constantFrom(...asciiKeys.filter((name) => name !== '__proto__'));
    const object = fc.dictionary(plainKey, value, { maxKeys: 4, noNullPrototype: true });
    const characterEdits = fc.array(
      fc.record({
        at: fc.double({ min: 0, max: 1, noNaN: true }),
        removed: fc.nat(2),
        inserted: fc.constantFrom(...'{}[]",:\\0-1e.+tnu '.split(''), '').map((character) => Buffer.from(character)),
      }),
      { maxLength: 2 },
    );
    const accepts = (candidate: string): boolean => {
      try {
        JSON.parse(candidate);
        return true;
      } catch {
        return false;
      }
    };
    fc.assert(
      fc.property(object, fc.constantFrom(undefined, 1), characterEdits, (whole, indent, changes) => {
        const body = applyEdits(Buffer.from(JSON.stringify(whole, null, indent)), changes);
        const scanner = new BodyScanner(plan);
        let seen = 0;
        while (scanner.status === 'scanning' && seen < body.length) {
          scanner.push(body.subarray(seen, seen + 1));
          seen += 1;
        }
        const written = body.toString();
        if (scanner.end() === 'done') {
          expect(accepts(written.slice(0, seen))).toBe(true);
        } else {
          expect(accepts(written) && written.trimStart().startsWith('{')).toBe(false);
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('ends any bytes in a final status', () => {
    const token = fc.constantFrom(...'{}[]",:\\u0-1e.tfn \n'.split(''), '"model"', 'true', '\\ud83d', '{"messages":[');
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 300 }),
      fc.array(token, { maxLength: 200 }).map((parts) => Buffer.from(parts.join(''))),
    );
    fc.assert(
      fc.property(bytes, anyPlan, chunkSizes, (body, plan, sizes) => {
        const whole = scanWhole(plan, body);
        expect(['done', 'malformed', 'truncated', 'over-limit']).toContain(whole.status);
        expect(scanChunks(plan, body, sizes)).toEqual(whole);
      }),
      { numRuns: 600 },
    );
  });

  it('keeps the leading hashes of a conversation that grows', () => {
    const message = fc.record({ role: fc.constantFrom('user', 'assistant'), content: fc.string({ maxLength: 60 }) });
    const conversation = fc.record({ history: fc.array(message), added: fc.array(message, { minLength: 1 }) });
    fc.assert(
      fc.property(conversation, fc.integer({ min: 4, max: 64 }), chunkSizes, ({ history, added }, prefixBlockBytes, sizes) => {
        const plan: ScanPlan = {
          fields: ['model'],
          promptFields: ['system', 'messages'],
          wantPromptBytes: false,
          prefixBlockBytes,
          prefixBlocksMax: 1000,
          scanBytesMax: 1 << 20,
        };
        const write = (messages: object[]): Buffer => Buffer.from(JSON.stringify({ system: 'be brief', messages, model: 'm' }));
        const before = scanWhole(plan, write(history));
        const after = scanChunks(plan, write([...history, ...added]), sizes);
        // Compact text shares all bytes up to the bracket that closed the shorter array, so all its whole blocks.
        expect(after.prefixHashes.slice(0, before.prefixHashes.length)).toEqual(before.prefixHashes);
        const shared = Buffer.byteLength('"be brief') + Buffer.byteLength(JSON.stringify(history)) - 1;
        expect(before.prefixHashes).toHaveLength(Math.floor(shared / prefixBlockBytes));
        expect(new Set(after.prefixHashes).size).toBe(after.prefixHashes.length);
      }),
      { numRuns: 300 },
    );
  });
});

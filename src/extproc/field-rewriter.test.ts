import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FieldRewriter } from './field-rewriter.ts';

/** Passes pieces through; undefined: not usable. Also says how much went on before that. */
function pass(pieces: readonly Buffer[], { path = 'model', value = 'other' } = {}): { body: string | undefined; passed: string; isChanged: boolean } {
  const rewriter = new FieldRewriter(path, value);
  const passed: Buffer[] = [];
  for (const [i, piece] of pieces.entries()) {
    const out = rewriter.push(piece, i === pieces.length - 1);
    if (out === undefined) return { body: undefined, passed: Buffer.concat(passed).toString(), isChanged: rewriter.isChanged };
    passed.push(out);
  }
  const whole = Buffer.concat(passed).toString();
  return { body: whole, passed: whole, isChanged: rewriter.isChanged };
}

/** Every way of cutting a text in two, and byte by byte. */
function cuts(text: string): Buffer[][] {
  const bytes = Buffer.from(text);
  const twos = Array.from({ length: bytes.length + 1 }, (_, at) => [bytes.subarray(0, at), bytes.subarray(at)]);
  return [[bytes], Array.from(bytes, (_, i) => bytes.subarray(i, i + 1)), [bytes, Buffer.alloc(0)], ...twos];
}

describe('a body that names the field once', () => {
  it.each([
    ['{"model":"a"}', '{"model":"other"}'],
    [' { "x" : [1, {"model":"inner"}] , "model"\t:\n"a" , "y":null }\r\n', ' { "x" : [1, {"model":"inner"}] , "model"\t:\n"other" , "y":null }\r\n'],
    ['\ufeff{"model":""}', '\ufeff{"model":"other"}'],
    ['{"mo\\u0064el":"a"}', '{"mo\\u0064el":"other"}'],
    ['{"model":"a\\"b\\\\"}', '{"model":"other"}'],
    ['{"model":"\\u00e9\\ud83d\\ude00é"}', '{"model":"other"}'],
    ['{"modell":"a","Model":"b","model":"c"}', '{"modell":"a","Model":"b","model":"other"}'],
    [`{"model":"${'m'.repeat(1024)}"}`, '{"model":"other"}'],
    ['{"model":"a"} trailing', '{"model":"other"} trailing'],
  ])('%j: only its value changes, wherever the body is cut', (text, expected) => {
    for (const pieces of cuts(text)) expect(pass(pieces)).toEqual({ body: expected, passed: expected, isChanged: true });
  });

  it('stays as it is where the value is the wanted one already, however it is written', () => {
    for (const text of ['{"model":"other"}', '{"model":"o\\u0074her"}', '{"n":1,"model" : "other" }']) {
      for (const pieces of cuts(text)) expect(pass(pieces)).toEqual({ body: text, passed: text, isChanged: false });
    }
  });

  it('gets the value as JSON writes it', () => {
    expect(pass([Buffer.from('{"model":"a"}')], { value: 'a"\\\n\u2028é' }).body).toBe(`{"model":${JSON.stringify('a"\\\n\u2028é')}}`);
  });

  it('may have the field further down', () => {
    const text = '{"model":"a","params":{"x":{"name":"no"},"name":"b"},"name":"c"}';
    for (const pieces of cuts(text)) expect(pass(pieces, { path: 'params.name' }).body).toBe(text.replace('"b"', '"other"'));
  });

  it('goes on piece by piece: only a value that is cut waits', () => {
    const rewriter = new FieldRewriter('model', 'other');
    const push = (text: string, isLast = false): string | undefined => rewriter.push(Buffer.from(text), isLast)?.toString();
    expect(push('{"messages":"long ')).toBe('{"messages":"long ');
    expect(push('text","model":"a')).toBe('text","model":');
    expect(push('bc')).toBe('');
    expect(push('d","n"')).toBe('"other","n"');
    expect(push(':1}')).toBe(':1}');
    expect(push('', true)).toBe('');
  });
});

describe('a body that cannot be trusted', () => {
  it.each([
    '{"model":"a","model":"b"}',
    '{"model":"a","x":{},"mo\\u0064el":"b"}',
    '{"model":"a","model":"a"}',
    '{"model":7}',
    '{"model":null}',
    '{"model":{"name":"a"}}',
    '{"model":["a"]}',
    `{"model":"${'m'.repeat(1025)}"}`,
    '{"model":"\\ud800"}',
    '{"messages":[]}',
    '{}',
    '[]',
    '"model"',
    'model=a',
    '{"model":"a"',
    '{"model":"a',
    '{"model":"a","n":01}',
    '{"model":"a","x":tru}',
    ' ',
  ])('%j never gets through whole', (text) => {
    for (const pieces of cuts(text)) expect(pass(pieces).body).toBeUndefined();
  });

  it('is empty', () => {
    expect(pass([Buffer.alloc(0)]).body).toBeUndefined();
  });

  it('is found out at the second name, however far that is', () => {
    const text = `{"model":"a","x":"${'y'.repeat(3_000_000)}","model":"b"}`;
    const { body, passed } = pass([Buffer.from(text.slice(0, 1_000)), Buffer.from(text.slice(1_000, -10)), Buffer.from(text.slice(-10))]);
    expect(body).toBeUndefined();
    expect(passed.length).toBeLessThan(text.length);
  });
});

it('any JSON, cut anywhere: equal to the text with the one value exchanged', () => {
  const key = fc.oneof(fc.string({ maxLength: 8 }), fc.constantFrom('model ', 'mode', 'Model', 'messages'));
  fc.assert(
    fc.property(
      fc.dictionary(key, fc.jsonValue({ maxDepth: 3 }), { maxKeys: 5 }),
      fc.dictionary(key, fc.jsonValue({ maxDepth: 3 }), { maxKeys: 5 }),
      fc.string({ maxLength: 40, unit: 'grapheme' }),
      fc.string({ maxLength: 40, unit: 'grapheme' }),
      fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 8 }),
      (before, after, from, to, places) => {
        const fieldsOf = (values: object): string[] => Object.entries(values).map(([name, value]) => `${JSON.stringify(name)}: ${JSON.stringify(value)}`);
        const make = (model: string): string => `{${[...fieldsOf(before), `"model":${JSON.stringify(model)}`, ...fieldsOf(after)].join(' ,')}}`;
        const bytes = Buffer.from(make(from));
        const at = [0, ...places.map((place) => Math.floor(place * bytes.length)).sort((a, b) => a - b), bytes.length];
        const pieces = at.slice(1).map((end, i) => bytes.subarray(at[i], end));
        expect(pass(pieces, { value: to }).body).toBe(make(to));
      },
    ),
    { numRuns: 300 },
  );
});

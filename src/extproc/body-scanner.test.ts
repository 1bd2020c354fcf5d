import { describe, expect, it, type MockInstance, vi } from 'vitest';
import { BodyScanner } from './body-scanner.ts';
import type { ScanStatus } from './body-scanner.ts';
import type { ScanPlan } from './scan-plan.ts';
import { pieceBytesMax, stage } from './stage.ts';

const nothing: ScanPlan = {
  fields: [],
  promptFields: [],
  wantPromptBytes: false,
  prefixBlockBytes: 0,
  prefixBlocksMax: 0,
  scanBytesMax: 1 << 20,
};

function planFor(...fields: string[]): ScanPlan {
  return { ...nothing, fields };
}

const measureMessages: ScanPlan = { ...nothing, promptFields: ['messages'], wantPromptBytes: true };

/** Scans a body whole and byte by byte, checks that both agree, and gives the scanner. */
function scan(plan: ScanPlan, body: string | Uint8Array): BodyScanner {
  const bytes = typeof body === 'string' ? Buffer.from(body) : body;
  const whole = new BodyScanner(plan);
  whole.push(bytes);
  whole.end();
  const bytewise = new BodyScanner(plan);
  for (let at = 0; at < bytes.length; at += 1) bytewise.push(bytes.subarray(at, at + 1));
  bytewise.end();
  expect(bytewise.status).toBe(whole.status);
  expect(bytewise.promptBytes).toBe(whole.promptBytes);
  expect(bytewise.prefixHashes).toEqual(whole.prefixHashes);
  for (const path of plan.fields) {
    expect(bytewise.field(path)).toBe(whole.field(path));
    expect(bytewise.fieldRange(path)).toEqual(whole.fieldRange(path));
  }
  return whole;
}

/** How many bytes a scanner that gets them one at a time takes until it is done. */
function bytesTaken(plan: ScanPlan, body: string): number {
  const scanner = new BodyScanner(plan);
  let taken = 0;
  for (const byte of Buffer.from(body)) {
    if (scanner.status !== 'scanning') break;
    scanner.push(Uint8Array.of(byte));
    taken += 1;
  }
  expect(scanner.status).toBe('done');
  return taken;
}

describe('fields', () => {
  it.each<[string, string | number | boolean | undefined]>([
    ['"llama"', 'llama'],
    ['""', ''],
    ['"a\\"b\\\\c\\/\\b\\f\\n\\r\\t"', 'a"b\\c/\b\f\n\r\t'],
    ['"\\u00e9\\u4e2d\\ud83d\\ude00\\u0041"', 'é中😀A'],
    ['"é中😀"', 'é中😀'],
    ['"\\u0000"', '\0'],
    ['"a\u007f\u2028"', 'a\u007f\u2028'],
    ['0', 0],
    ['-0', -0],
    ['512', 512],
    ['-12.5e-1', -1.25],
    ['1E+2', 100],
    ['12345678901234567890123456789012', 12345678901234567890123456789012],
    ['true', true],
    ['false', false],
    ['null', undefined],
    ['{}', undefined],
    ['{"model":"x"}', undefined],
    ['[]', undefined],
    ['["x"]', undefined],
    ['1e999', undefined],
    ['"\\ud83d"', undefined],
    ['"\\ude00\\ud83d"', undefined],
    ['"\\ud83d\\u0041"', undefined],
    ['"\\ud83dx"', undefined],
  ])('"model":%s', (written, value) => {
    const scanner = scan(planFor('model'), `{"a":1,"model":${written},"z":2}`);
    expect(scanner.field('model')).toBe(value);
    expect(scanner.status).toBe('done');
  });

  it.each([
    ['a lone continuation byte', [0x80]],
    ['a sequence cut short', [0xe4, 0xb8]],
    ['an overlong slash', [0xc0, 0xaf]],
    ['a surrogate in UTF-8', [0xed, 0xa0, 0xbd]],
    ['a pair of surrogates in UTF-8', [0xed, 0xa0, 0xbd, 0xed, 0xb8, 0x80]],
    ['a code point beyond Unicode', [0xf4, 0x90, 0x80, 0x80]],
  ])('invalid UTF-8 counts as absent: %s', (_, bytes) => {
    const body = Buffer.concat([Buffer.from('{"model":"a'), Buffer.from(bytes), Buffer.from('","user":"u"}')]);
    const scanner = scan(planFor('model', 'user'), body);
    expect(scanner.status).toBe('done');
    expect(scanner.field('model')).toBeUndefined();
    expect(scanner.field('user')).toBe('u');
  });

  it('knows a key however it is written', () => {
    expect(scan(planFor('model'), '{"\\u006dod\\u0065l":"m"}').field('model')).toBe('m');
    expect(scan(planFor('é😀'), '{"\\u00e9\\ud83d\\ude00":"m"}').field('é😀')).toBe('m');
    expect(scan(planFor('é😀'), '{"é😀":"m"}').field('é😀')).toBe('m');
    expect(scan(planFor('model'), '{"Model":"m","model ":"m","mode":"m","modell":"m","":"m"}').field('model')).toBeUndefined();
  });

  it('descends objects by dots, four levels deep', () => {
    const plan = planFor('metadata.user_id', 'a.b.c.d', 'a.b.x', 'a');
    const scanner = scan(plan, '{"user_id":1,"metadata":{"x":{"user_id":2},"user_id":"u"},"a":{"b":{"c":{"e":{"d":1},"d":true},"x":7}}}');
    expect(scanner.field('metadata.user_id')).toBe('u');
    expect(scanner.field('a.b.c.d')).toBe(true);
    expect(scanner.field('a.b.x')).toBe(7);
    expect(scanner.field('a')).toBeUndefined();
    expect(scan(planFor('a.b'), '{"a":[{"b":1}]}').field('a.b')).toBeUndefined();
    expect(scan(planFor('a.b'), '{"a.b":1}').field('a.b')).toBeUndefined();
  });

  it('does not give what was not asked', () => {
    expect(scan(planFor('a.b'), '{"a":{"b":1},"c":2}').field('a')).toBeUndefined();
    expect(scan(planFor('a'), '{"a":1}').field('b')).toBeUndefined();
  });

  it.each([
    ['{"model":"a","model":"b"}', 'model'],
    ['{"model":"a","\\u006dodel":"a"}', 'model'],
    ['{"model":null,"model":"b"}', 'model'],
    ['{"model":"a","model":{}}', 'model'],
    ['{"metadata":{"user_id":"a","user_id":"b"}}', 'metadata.user_id'],
    ['{"metadata":{"user_id":"a"},"metadata":{"user_id":"b"}}', 'metadata.user_id'],
    ['{"metadata":{"user_id":"a"},"metadata":{}}', 'metadata.user_id'],
    ['{"metadata":{"user_id":"a"},"metadata":3}', 'metadata.user_id'],
    ['{"metadata":{},"metadata":{"user_id":"b"}}', 'metadata.user_id'],
  ])('a field that could be either of two is absent: %s', (body, path) => {
    const scanner = scan(planFor(path, 'never'), body);
    expect(scanner.status).toBe('done');
    expect(scanner.field(path)).toBeUndefined();
  });

  it('repeated keys elsewhere do not matter', () => {
    const scanner = scan(planFor('model', 'never'), '{"x":1,"x":{"model":1,"model":2},"model":"m"}');
    expect(scanner.field('model')).toBe('m');
  });

  it('what nobody asked about is passed over by its quotes and brackets alone', () => {
    for (const other of ['[[1],oops,{"a" "b"}]', '{"a":[1,,]}', '"\\q"', '["]",{"}":"\\\\"},"{"]', '[tru]']) {
      const scanner = scan(planFor('model'), `{"x":${other},"model":"m"}`);
      expect(scanner.status).toBe('done');
      expect(scanner.field('model')).toBe('m');
    }
  });

  it.each(['', '\\', '"', '\\\\', '\\"', '\\\\"', 'x\\', 'x"'])('finds the end of a skipped string that ends in %j', (ending) => {
    for (const length of [0, 1, 7, 8, 127, 128, 129, 300]) {
      const long = 'a'.repeat(length) + ending;
      const text = JSON.stringify(long + long).slice(1, -1);
      const scanner = scan(planFor('model'), `{"x":"${text}","y":["${text}"],"${text}":"","model":"m"}`);
      expect(scanner.status).toBe('done');
      expect(scanner.field('model')).toBe('m');
    }
  });

  it('keys that name object internals are plain names', () => {
    const plan = planFor('__proto__', 'constructor', 'toString', '__proto__.polluted');
    const scanner = scan(plan, '{"__proto__":{"polluted":true},"constructor":"c"}');
    expect(scanner.field('__proto__')).toBeUndefined();
    expect(scanner.field('__proto__.polluted')).toBe(true);
    expect(scanner.field('constructor')).toBe('c');
    expect(scanner.field('toString')).toBeUndefined();
    expect(Object.hasOwn(Object.prototype, 'polluted')).toBe(false);
  });

  it('keeps strings up to 1024 bytes, decoded', () => {
    const fits = 'é'.repeat(512);
    expect(scan(planFor('a'), JSON.stringify({ a: fits })).field('a')).toBe(fits);
    expect(scan(planFor('a'), `{"a":"${'\\u00e9'.repeat(512)}"}`).field('a')).toBe(fits);
    for (const written of [`x${fits}`, `${fits}x`, `${'\\u00e9'.repeat(512)}x`, `${'x'.repeat(1021)}\\ud83d\\ude00`]) {
      const scanner = scan(planFor('a', 'b'), `{"a":"${written}","b":1}`);
      expect(scanner.status).toBe('done');
      expect(scanner.field('a')).toBeUndefined();
      expect(scanner.field('b')).toBe(1);
    }
  });

  it('keys match up to 256 bytes; longer ones are passed over', () => {
    const fits = 'k'.repeat(256);
    const tooLong = 'k'.repeat(257);
    const scanner = scan(planFor(fits, tooLong, 'b'), `{"${tooLong}":2,"${'q'.repeat(5000)}\\"\\\\":{"b":3},"${fits}":1,"b":4}`);
    expect(scanner.field(fits)).toBe(1);
    expect(scanner.field(tooLong)).toBeUndefined();
    expect(scanner.field('b')).toBe(4);
    const inPrompt = scan({ ...measureMessages, fields: [`messages.${fits}`] }, `{"messages":{"${tooLong}":"xyz"}}`);
    expect(inPrompt.field(`messages.${fits}`)).toBeUndefined();
    expect(inPrompt.promptBytes).toBe(3);
  });

  it('a plan that is not sound is refused', () => {
    for (const path of ['', 'a.', '.a', 'a..b', 'a.b.c.d.e']) {
      expect(() => new BodyScanner(planFor(path)), path).toThrow(RangeError);
    }
    for (const value of [-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => new BodyScanner({ ...nothing, scanBytesMax: value })).toThrow('scanBytesMax');
      expect(() => new BodyScanner({ ...nothing, prefixBlockBytes: value })).toThrow('prefixBlockBytes');
      expect(() => new BodyScanner({ ...nothing, prefixBlocksMax: value })).toThrow('prefixBlocksMax');
    }
  });
});

describe('status', () => {
  it.each<[string, ScanStatus]>([
    ['{}', 'done'],
    [' \t\r\n{ } ', 'done'],
    ['\ufeff{}', 'done'],
    ['\ufeff {}', 'done'],
    ['{"a":[{},[],"",0,-1.5,true,false,null]}', 'done'],
    ['{"a" : 1 , "b" : [ ] }', 'done'],
    ['', 'truncated'],
    ['  ', 'truncated'],
    ['\ufeff', 'truncated'],
    ['{', 'truncated'],
    ['{"', 'truncated'],
    ['{"a', 'truncated'],
    ['{"a"', 'truncated'],
    ['{"a":', 'truncated'],
    ['{"a":1', 'truncated'],
    ['{"a":"x\\', 'truncated'],
    ['{"a":"\\u00', 'truncated'],
    ['{"a":tru', 'truncated'],
    ['{"a":{"b":[', 'truncated'],
    ['{"a":1,', 'truncated'],
    ['[]', 'malformed'],
    ['"model"', 'malformed'],
    ['1', 'malformed'],
    ['null', 'malformed'],
    ['\0{}', 'malformed'],
    ['x', 'malformed'],
    [' \ufeff{}', 'malformed'],
    ['\ufeff\ufeff{}', 'malformed'],
    ['{]', 'malformed'],
    ['{,}', 'malformed'],
    ['{a:1}', 'malformed'],
    ["{'a':1}", 'malformed'],
    ['{"a"}', 'malformed'],
    ['{"a",1}', 'malformed'],
    ['{"a"::1}', 'malformed'],
    ['{"a":}', 'malformed'],
    ['{"a":,}', 'malformed'],
    ['{"a":1,}', 'malformed'],
    ['{"a":1 "b":2}', 'malformed'],
    ['{"a":1]', 'malformed'],
    ['{"a":[1}', 'malformed'],
    ['{"a":{"b":1]}', 'malformed'],
    ['{"a":[{]}', 'malformed'],
    ['{"a":truth}', 'malformed'],
    ['{"a":nul}', 'malformed'],
    ['{"a":True}', 'malformed'],
    ['{"a":truee}', 'malformed'],
    ['{"a":undefined}', 'malformed'],
    ['{"a":NaN}', 'malformed'],
    ['{"a":01}', 'malformed'],
    ['{"a":+1}', 'malformed'],
    ['{"a":.5}', 'malformed'],
    ['{"a":5.}', 'malformed'],
    ['{"a":-}', 'malformed'],
    ['{"a":1e}', 'malformed'],
    ['{"a":1e+}', 'malformed'],
    ['{"a":1.2.3}', 'malformed'],
    ['{"a":1x}', 'malformed'],
    ['{"a":0x10}', 'malformed'],
    ['{"a":123456789012345678901234567890123}', 'malformed'],
    ['{"a\nb":1}', 'malformed'],
    ['{"a\\xb":1}', 'malformed'],
    ['{"\\u12g4":1}', 'malformed'],
    ['{"model":"a\nb"}', 'malformed'],
    ['{"model":"a\u001fb"}', 'malformed'],
    ['{"a\u001fb":1}', 'malformed'],
    ['{"model":"a\\qb"}', 'malformed'],
    ['{"model":"\\u12"}', 'malformed'],
    ['{/**/}', 'malformed'],
  ])('%j: %s', (body, status) => {
    expect(scan(planFor('model', 'never'), body).status).toBe(status);
  });

  it('half a byte order mark is malformed', () => {
    for (const start of [[0xef], [0xef, 0xbb], [0xef, 0x20, 0xbb, 0xbf], [0xef, 0xbb, 0x20, 0xbf], [0xbb, 0xbf]]) {
      const bytes = [...start, 0x7b, 0x7d];
      expect(scan(planFor('never'), Uint8Array.from(bytes)).status).toBe('malformed');
    }
  });

  it('is done when nothing is asked, before any byte', () => {
    const scanner = new BodyScanner(nothing);
    expect(scanner.status).toBe('done');
    expect(scanner.push(Buffer.from('garbage'))).toBe('done');
    expect(scanner.end()).toBe('done');
  });

  it('keeps what was found before the error', () => {
    const scanner = scan(planFor('model', 'user'), '{"model":"m","x":}');
    expect(scanner.status).toBe('malformed');
    expect(scanner.field('model')).toBe('m');
    expect(scan(planFor('model', 'user'), '{"model":"m","us').field('model')).toBe('m');
  });

  it('a final status stays', () => {
    const malformed = new BodyScanner(planFor('model'));
    expect(malformed.push(Buffer.from('['))).toBe('malformed');
    expect(malformed.push(Buffer.from('{"model":"m"}'))).toBe('malformed');
    expect(malformed.end()).toBe('malformed');
    const truncated = new BodyScanner(planFor('model'));
    truncated.push(Buffer.from('{"mod'));
    expect(truncated.end()).toBe('truncated');
    expect(truncated.push(Buffer.from('el":"m"}'))).toBe('truncated');
    expect(truncated.end()).toBe('truncated');
    expect(truncated.field('model')).toBeUndefined();
  });

  it('empty chunks change nothing', () => {
    const scanner = new BodyScanner(planFor('model'));
    for (const part of ['', '{"mod', '', 'el":"', '', 'm', '']) expect(scanner.push(Buffer.from(part))).toBe('scanning');
    expect(scanner.push(Buffer.from('"'))).toBe('done');
    expect(scanner.field('model')).toBe('m');
  });

  it('takes 512 levels of nesting and not one more, whether it walks through them or skips them', () => {
    for (const plan of [planFor('never'), { ...measureMessages, fields: ['never'] }]) {
      const nested = (levels: number): string => `{"messages":${'['.repeat(levels - 1)}${']'.repeat(levels - 1)}}`;
      expect(scan(plan, nested(512)).status).toBe('done');
      expect(scan(plan, nested(513)).status).toBe('malformed');
      const mixed = `{"messages":${'[{"a":'.repeat(255)}1${'}]'.repeat(255)}}`;
      expect(scan(plan, mixed).status).toBe('done');
      expect(scan(plan, mixed.replace('}]}]', '}]]}')).status).toBe('malformed');
      expect(new BodyScanner(plan).push(Buffer.from(`{"messages":${'['.repeat(900_000)}`))).toBe('malformed');
    }
  });
});

describe('how much is looked at', () => {
  it('stops at the byte that answers the last question', () => {
    expect(bytesTaken(planFor('model'), '{"model":"m","x":!!!')).toBe('{"model":"m"'.length);
    expect(bytesTaken(planFor('stream'), '{"stream":true!!!')).toBe('{"stream":true'.length);
    // Where a number ends shows only in what follows it.
    expect(bytesTaken(planFor('n'), '{"n":12,!!!')).toBe('{"n":12,'.length);
    expect(bytesTaken(planFor('n'), '{"n":null!!!')).toBe('{"n":null'.length);
    expect(bytesTaken(planFor('n'), '{"n":[1,{}]!!!')).toBe('{"n":[1,{}]'.length);
    expect(bytesTaken(planFor('a', 'm.u'), '{"a":1,"m":{"u":"x"!!!')).toBe('{"a":1,"m":{"u":"x"'.length);
    expect(bytesTaken(planFor('m.u'), '{"m":{"v":1}!!!')).toBe('{"m":{"v":1}'.length);
    expect(bytesTaken(planFor('m.u'), '{"m":3,!!!')).toBe('{"m":3,'.length);
    expect(bytesTaken(planFor('a.b.c.d'), '{"a":{"b":{"c":{"d":{}!!!')).toBe('{"a":{"b":{"c":{"d":{}'.length);
  });

  describe('of alternatives', () => {
    const plan: ScanPlan = { ...planFor('m', 'a', 'b', 'c.d', 'c.e'), alternatives: [['a', 'b', 'c.d']] };

    it.each<[string, string]>([
      ['stops at the first in order that has a value, once the rest is known', '{"m":1,"c":{"e":1},"a":"x"'],
      ['goes on where only a later one has', '{"m":1,"c":{"e":1,"d":"x"},"b":"y","z":0}'],
      ['goes on where the first is empty', '{"m":1,"c":{"e":1},"a":"","b":2,'],
      ['goes on where the first is null, true or an object', '{"m":1,"c":{"e":1},"a":{},"b":"y"'],
      ['goes on where the first is longer than a fact may be', `{"m":1,"c":{"e":1},"a":"${'x'.repeat(257)}","b":"y"`],
      ['still reads what shares an object with one that is not needed', '{"m":1,"a":"x","c":{"f":0,"e":1'.concat(',')],
      ['and what the others ask for', '{"a":"x","c":{"e":1},"m":"m"'],
    ])('%s', (_title, looked) => {
      expect(bytesTaken(plan, `${looked}!!!`)).toBe(looked.length);
    });

    it('loses none of the values that it passes', () => {
      const scanner = scan(plan, '{"b":"y","a":"x","c":{"d":"z","e":5},"m":1}');
      expect(plan.fields.map((path) => scanner.field(path))).toEqual([1, 'x', 'y', 'z', 5]);
      expect(scan(plan, '{"a":"x","a":"x","b":"y","c":{"e":1},"m":1}').field('a')).toBeUndefined();
    });

    it('refuses a plan that does not make sense', () => {
      expect(() => new BodyScanner({ ...planFor('a'), alternatives: [['a', 'b']] })).toThrow(/'b' is not among the fields/);
      expect(() => new BodyScanner({ ...planFor('a', 'b'), alternatives: [['a'], ['b', 'a']] })).toThrow(/'a' is an alternative twice/);
    });
  });

  it('looks to the end for a field that does not occur, and not beyond', () => {
    expect(bytesTaken(planFor('never'), '{"a":{"never":1}}garbage')).toBe('{"a":{"never":1}}'.length);
  });

  it('does not notice what is wrong after its end', () => {
    expect(scan(planFor('model'), '{"model":"m"]]]').status).toBe('done');
    expect(scan(planFor('model'), '{"model":"m","model":"n"}').field('model')).toBe('m');
  });

  it('reads to the end if the prompt is measured', () => {
    const body = '{"model":"m","messages":["a"],"x":[]}';
    expect(bytesTaken({ ...measureMessages, fields: ['model'] }, body)).toBe(body.length);
  });

  it('stops at the last wanted prefix block, within the prompt', () => {
    const plan = { ...nothing, fields: ['model'], promptFields: ['messages'], prefixBlockBytes: 4, prefixBlocksMax: 2 };
    const early = '{"model":"m","messages":["abcdefgh"]}';
    expect(bytesTaken(plan, early)).toBe('{"model":"m","messages":["abcdef'.length);
    const late = '{"messages":["abcdefgh"],"model":"m","x":1}';
    expect(bytesTaken(plan, late)).toBe('{"messages":["abcdefgh"],"model":"m"'.length);
    // In one chunk, too: what would be an error comes right after.
    expect(scan(plan, '{"model":"m","messages":[[1234}').status).toBe('malformed');
    expect(scan(plan, '{"model":"m","messages":[[123456}').status).toBe('done');
    expect(scan(plan, early).prefixHashes).toEqual(scan(plan, late).prefixHashes);
    expect(scan(plan, late).prefixHashes).toHaveLength(2);
  });

  it('looks at no more than scanBytesMax', () => {
    const body = '{"a":"xxxxxxxx","model":"m"}';
    const end = body.indexOf('"m"') + 3;
    expect(scan({ ...planFor('model'), scanBytesMax: end }, body).field('model')).toBe('m');
    const short = scan({ ...planFor('model'), scanBytesMax: end - 1 }, body);
    expect(short.status).toBe('over-limit');
    expect(short.field('model')).toBeUndefined();
    expect(scan({ ...planFor('never'), scanBytesMax: body.length }, body).status).toBe('done');
    // A body that ends just at the limit is truncated, not over it.
    expect(scan({ ...planFor('model'), scanBytesMax: end - 1 }, body.slice(0, end - 1)).status).toBe('truncated');
    expect(scan({ ...planFor('model'), scanBytesMax: 0 }, body).status).toBe('over-limit');
    const partly = scan({ ...measureMessages, scanBytesMax: 20 }, '{"messages":["aaaaaaaaaaaaaaaaaaaa"]}');
    expect(partly.status).toBe('over-limit');
    expect(partly.promptBytes).toBe(20 - '{"messages":["'.length);
  });
});

describe('prompt bytes', () => {
  const measured = (messages: string): number => {
    const scanner = scan({ ...measureMessages, fields: ['model'] }, `{"model":"not counted","messages":${messages},"user":"not counted"}`);
    expect(scanner.status).toBe('done');
    return scanner.promptBytes;
  };

  it.each<[string, number]>([
    ['[]', 0],
    ['null', 0],
    ['[1,2.5,true,null]', 0],
    ['"abc"', 3],
    ['{"key":"abc"}', 3],
    ['[{"role":"user","content":"hello"}]', 9],
    ['["\\"\\\\\\/\\b\\f\\n\\r\\t"]', 8],
    ['["\\u0041"]', 1],
    ['["\\u00e9"]', 2],
    ['["\\u4e2d"]', 3],
    ['["\\ud83d\\ude00"]', 4],
    ['["\\ud83d"]', 3],
    ['["\\ude00\\ud83d"]', 6],
    ['["\\ud83d\\ud83d\\ude00"]', 7],
    ['["\\ud83d\\n\\ude00"]', 7],
    ['["\\ud83dx\\ude00"]', 7],
    ['["\\ud83d","\\ude00"]', 6],
    ['["é中😀"]', 9],
    ['[{"a":{"b":["x","y"]}},"z"]', 3],
  ])('%s: %d', (messages, bytes) => {
    expect(measured(messages)).toBe(bytes);
  });

  it('counts long texts with few and with many escapes', () => {
    const parts = ['x'.repeat(700), '\n', '"', `${'y'.repeat(150)}\n\n`, `${'z'.repeat(90)}"`, '\\', 'ü', '😀', `${'\\'.repeat(131)}"`];
    for (const part of parts) {
      const text = part.repeat(40);
      expect(measured(JSON.stringify([text, text]))).toBe(2 * Buffer.byteLength(text));
    }
  });

  it('is 0 where not wanted, and adds up where a field comes twice', () => {
    expect(scan({ ...measureMessages, fields: ['x'], wantPromptBytes: false }, '{"messages":["abc"]}').promptBytes).toBe(0);
    expect(scan({ ...measureMessages, promptFields: [] }, '{"messages":["abc"]}').promptBytes).toBe(0);
    const both = { ...measureMessages, promptFields: ['system', 'messages'] };
    expect(scan(both, '{"messages":["abc"],"system":"d","messages":"e"}').promptBytes).toBe(5);
  });

  it('stands at the place of an error or end', () => {
    const both = { ...measureMessages, fields: ['messages'] };
    expect(scan(both, '{"messages":"abc\n').promptBytes).toBe(3);
    expect(scan(both, '{"messages":"abc').promptBytes).toBe(3);
    expect(scan(measureMessages, '{"messages":["abc","de\\x').promptBytes).toBe(5);
    expect(scan(measureMessages, '{"messages":["abc",{"key').promptBytes).toBe(3);
  });

  it('takes only top-level fields for the prompt', () => {
    expect(scan(measureMessages, '{"x":{"messages":["abc"]},"y":[{"messages":"d"}],"messages":"e"}').promptBytes).toBe(1);
  });

  it('a string can be both a field and prompt text', () => {
    const plan = { ...nothing, fields: ['prompt'], promptFields: ['prompt'], wantPromptBytes: true };
    for (const prompt of ['short', 'with "escapes" \n', 'x'.repeat(1024), 'x'.repeat(1025), `${'é'.repeat(600)}"`]) {
      const scanner = scan(plan, JSON.stringify({ prompt }));
      expect(scanner.promptBytes).toBe(Buffer.byteLength(prompt));
      expect(scanner.field('prompt')).toBe(Buffer.byteLength(prompt) <= 1024 ? prompt : undefined);
    }
  });

  const base64 = 'QUJD'.repeat(100);
  it.each<[string, unknown, number]>([
    ['an image as data: URL', { image_url: { url: 'data:image/png;base64,AA==' } }, 0],
    ['the same in the Responses API', { image_url: 'data:image/png;base64,AA==' }, 0],
    ['a web address', { image_url: { url: 'https://example.com/a.png' } }, 25],
    ['a long web address', { url: `https://example.com/${base64}` }, 0],
    ['audio', { input_audio: { data: base64, format: 'wav' } }, 3],
    ['an Anthropic image', { source: { type: 'base64', media_type: 'image/png', data: base64 } }, 15],
    ['a file', { file: { file_data: base64, filename: 'a' } }, 1],
    ['b64_json', { b64_json: base64 }, 0],
    ['256 bytes', { data: base64.slice(0, 256) }, 256],
    ['257 bytes', { data: `${base64.slice(0, 256)}x` }, 0],
    ['long text with a space', { data: `${base64} ` }, 401],
    ['a data: URL with spaces', { data: `data: ${base64} x` }, 0],
    ['the same words elsewhere', { text: `data:${base64}`, datas: base64 }, 805],
    ['strings in a list under such a key', { data: [base64] }, 400],
    ['a string in an object under such a key', { data: { x: base64 } }, 400],
    ['nearly a data: URL', { url: 'data;x', data: 'dat' }, 9],
  ])('media: %s', (_, content, bytes) => {
    expect(measured(JSON.stringify([content]))).toBe(bytes);
  });

  it('sees through escapes in media', () => {
    expect(measured('[{"\\u0075rl":"\\u0064ata\\u003axyz"}]')).toBe(0);
    expect(measured(`[{"data":"${base64}\\u0020"}]`)).toBe(401);
    expect(measured('[{"url":"d\\u0061tx"}]')).toBe(4);
  });

  it('does not count media as yet unfinished, as far as it shows', () => {
    expect(scan(measureMessages, '{"messages":[{"url":"data:abc').promptBytes).toBe(0);
    expect(scan(measureMessages, '{"messages":[{"url":"data').promptBytes).toBe(4);
    expect(scan(measureMessages, `{"messages":[{"data":"${base64}`).promptBytes).toBe(0);
  });
});

describe('prefix hashes', () => {
  const planOf = (prefixBlockBytes: number, prefixBlocksMax = 1000): ScanPlan => ({
    ...nothing,
    promptFields: ['system', 'messages'],
    prefixBlockBytes,
    prefixBlocksMax,
  });
  const hashes = (body: unknown, plan = planOf(16)): readonly number[] => scan(plan, JSON.stringify(body)).prefixHashes;
  const turn = (content: string): unknown => ({ role: 'user', content });

  it('stay as they are: routers of different versions share them', () => {
    expect(hashes({ system: 'You are a helpful assistant.', messages: [turn('Hello.')] }, planOf(16))).toEqual([
      3337243276775296, 1456197348357450, 6196844389728018, 3176403746703471,
    ]);
    expect(hashes({ messages: [turn('Hello.')] }, planOf(11))).toEqual([8400909427192690, 4763760731839909, 7724470998872508]);
  });

  it('are whole numbers below 2^53', () => {
    const found = hashes({ messages: Array.from({ length: 200 }, (_, i) => turn(`message ${i}`)) }, planOf(8));
    expect(found.length).toBeGreaterThan(500);
    for (const hash of found) expect(Number.isSafeInteger(hash) && hash >= 0).toBe(true);
    expect(new Set(found).size).toBe(found.length);
  });

  it('a block depends on all before it', () => {
    const one = hashes({ messages: [turn('a'.repeat(100))] });
    const two = hashes({ messages: [turn(`b${'a'.repeat(99)}`)] });
    expect(one).toHaveLength(two.length);
    // The difference is in the second block: [{"role":"user","content":"…
    expect(one.slice(0, 1)).toEqual(two.slice(0, 1));
    for (let i = 1; i < one.length; i += 1) expect(one[i]).not.toBe(two[i]);
  });

  it('cover the raw bytes of the fields in order of appearance, without the end of each value', () => {
    const joined = (...values: string[]): number => values.reduce((sum, value) => sum + value.length - 1, 0);
    const system = 'You are a helpful assistant.';
    const messages = [turn('Hello.')];
    for (const blockBytes of [1, 5, 8]) {
      const found = hashes({ system, model: 'x', messages }, planOf(blockBytes));
      expect(found).toHaveLength(Math.floor(joined(JSON.stringify(system), JSON.stringify(messages)) / blockBytes));
      expect(found).toEqual(hashes({ a: 1, system, messages }, planOf(blockBytes)));
      expect(found).not.toEqual(hashes({ messages, system }, planOf(blockBytes)));
    }
    expect(scan(planOf(1), '{"messages":123,"system":true}').prefixHashes).toHaveLength(7);
    expect(scan(planOf(1), '{"messages":[ ]}').prefixHashes).toHaveLength(2);
  });

  it('go on in the next prompt field', () => {
    const plan = { ...planOf(4, 3), fields: ['model'] };
    const body = `{"model":"m","system":"ab","x":"${'y'.repeat(100)}","messages":["cdefghijk"],"z":1}`;
    expect(scan(plan, body).prefixHashes).toEqual(scan(planOf(4), '{"system":"ab","messages":["cdefghi"]}').prefixHashes);
    expect(scan(plan, body).status).toBe('done');
    expect(scan(plan, body).prefixHashes).toHaveLength(3);
  });

  it('a field found within the prompt ends the scan if the blocks are complete, else they do', () => {
    const plan = { ...planOf(4, 2), fields: ['system.a'] };
    expect(bytesTaken(plan, '{"system":{"b":"xxxx","a":1,"c":2}}')).toBe('{"system":{"b":"xxxx","a":1,'.length);
    expect(bytesTaken(plan, '{"system":{"a":"","b":"xxxx"}}')).toBe('{"system":{"a":""'.length + 1);
    expect(scan(plan, '{"system":{"a":"","b":"xxxx"}}').prefixHashes).toHaveLength(2);
    expect(scan(plan, '{"system":{"b":"xxxx",]').status).toBe('malformed');
  });

  it('cover what came before an error', () => {
    expect(scan(planOf(4), '{"messages":[[12345678}').prefixHashes).toHaveLength(2);
    expect(scan(planOf(4), '{"messages":[[12345678').prefixHashes).toHaveLength(2);
  });

  it('are at most as many as wanted, and none where not wanted', () => {
    const body = { messages: [turn('a'.repeat(100))] };
    expect(hashes(body, planOf(16, 3))).toEqual(hashes(body).slice(0, 3));
    expect(hashes(body, planOf(16, 0))).toEqual([]);
    expect(hashes(body, planOf(0))).toEqual([]);
    expect(hashes(body, { ...planOf(16), promptFields: [] })).toEqual([]);
    expect(hashes(body, planOf(100_000))).toEqual([]);
  });

  it('a word moved, changed or swapped changes them', () => {
    const texts = ['aaaabbbbccccdddd', 'bbbbaaaaccccdddd', 'aaaabbbbddddcccc', 'ccccddddaaaabbbb', 'aaaabbbbccccddde', 'aaaabbbaccccdddd'];
    const found = texts.map((text) => scan({ ...planOf(18), promptFields: ['system'] }, `{"system":"x${text}"}`).prefixHashes[0]);
    expect(new Set(found).size).toBe(texts.length);
    expect(found).not.toContain(undefined);
  });
});

describe('pieces', () => {
  it.each(['é\\ud83d\\ude00\\n', '\\\\\\"x', '"},{"url":"data: y"},{"key":"', '\\u12'])('are cut anywhere without a trace: %s', (around) => {
    const plan: ScanPlan = { ...measureMessages, fields: ['user'], prefixBlockBytes: 512, prefixBlocksMax: 10_000 };
    // What comes before the text takes 22 bytes.
    for (let room = 18; room < 50; room += 1) {
      const text = 'a'.repeat(pieceBytesMax - room) + around;
      scan({ ...plan, wantPromptBytes: room % 2 === 0 }, `{"messages":[{"key":"${text}"}],"user":"${around}"}`);
    }
  });

  it('leave nothing behind for another body', () => {
    const body = Buffer.from(`{"messages":["${'a'.repeat(3_000)}"],"user":"u"}`);
    const plan: ScanPlan = { ...measureMessages, fields: ['user'], prefixBlockBytes: 100, prefixBlocksMax: 20 };
    const scanners = [new BodyScanner(plan), new BodyScanner(plan)];
    for (let at = 0; at < body.length; at += 77) for (const scanner of scanners) scanner.push(body.subarray(at, at + 77));
    const alone = scan(plan, body);
    for (const scanner of scanners) {
      expect(scanner.prefixHashes).toEqual(alone.prefixHashes);
      expect(scanner.promptBytes).toBe(3_000);
      expect(scanner.field('user')).toBe('u');
    }
  });
});

describe('work', () => {
  // The search for a space is the only thing here that could go over the same bytes again and again.
  const size = 400_000;
  it.each([
    ['escaped quotes', `{"messages":["${'\\"'.repeat(size / 2)}"]}`],
    ['backslashes', `{"messages":["${'\\\\'.repeat(size / 2)}"]}`],
    ['a long stretch before each escaped quote', `{"messages":["${`${'a'.repeat(200)}\\"`.repeat(size / 200)}"]}`],
    ['a long stretch before each line end, no quote in sight', `{"messages":["${`${'a'.repeat(200)}\\n`.repeat(size / 200)}"]}`],
    ['long strings, no backslash in sight', `{"messages":[${`"${'a'.repeat(200)}",`.repeat(size / 200)}"a"]}`],
    ['media without any space', `{"messages":[${`{"data":"${'a'.repeat(30)}"},`.repeat(size / 40)}""]}`],
    ['long media without any space', `{"messages":[${`{"data":"${'a'.repeat(300)}"},`.repeat(size / 310)}""]}`],
    ['keys of the greatest length', `{${`"${'k'.repeat(256)}":1,`.repeat(size / 260)}"x":1}`],
    ['long keys with escapes', `{"messages":{${`"${'k'.repeat(200)}\\n":1,`.repeat(size / 210)}"x":1}}`],
    ['long values of a repeated field', `{${`"user":"${'u'.repeat(200)}\\n",`.repeat(size / 210)}"x":1}`],
  ])('is linear: %s', (_, body) => {
    for (const wantPromptBytes of [true, false]) {
      const bytes = Buffer.from(body);
      let searched = 0;
      const indexOf = stage.indexOf.bind(stage) as (byte: number, from: number) => number;
      const spy = vi.spyOn(stage, 'indexOf') as unknown as MockInstance<typeof indexOf>;
      spy.mockImplementation((byte, from) => {
        const at = indexOf(byte, from);
        searched += at - from;
        return at;
      });
      const plan: ScanPlan = {
        fields: ['user', 'never'],
        promptFields: ['messages'],
        wantPromptBytes,
        prefixBlockBytes: 512,
        prefixBlocksMax: 10_000,
        scanBytesMax: 2 * size,
      };
      const scanner = new BodyScanner(plan);
      expect(scanner.push(bytes)).toBe('done');
      expect(searched).toBeLessThanOrEqual(bytes.length);
      searched = 0;
      const chunked = new BodyScanner(plan);
      for (let at = 0; at < bytes.length; at += 1000) chunked.push(bytes.subarray(at, at + 1000));
      expect(searched).toBeLessThanOrEqual(bytes.length);
      spy.mockRestore();
      expect(chunked.status).toBe('done');
      expect(chunked.promptBytes).toBe(scanner.promptBytes);
      expect(chunked.prefixHashes).toEqual(scanner.prefixHashes);
    }
  });
});

describe('where a field stands', () => {
  it.each<[string, string | undefined]>([
    ['{"model":"a"}', '"a"'],
    ['\ufeff { "x":[1,{"model":"no"}], "model" : "é\\"\\u00e9" ,"y":1}', '"é\\"\\u00e9"'],
    ['{"model":""}', '""'],
    ['{"model":7}', undefined],
    ['{"model":true}', undefined],
    ['{"model":null}', undefined],
    ['{"model":["a"]}', undefined],
    ['{"x":1}', undefined],
  ])('%s: %s', (body, raw) => {
    const range = scan(planFor('model'), body).fieldRange('model');
    expect(range && Buffer.from(body).subarray(range.start, range.end).toString()).toBe(raw);
  });

  it('is told as long as its value is cut', () => {
    const scanner = new BodyScanner(planFor('model', 'user'));
    scanner.push(Buffer.from('{"x":"not this"'));
    expect(scanner.openFieldStart).toBeUndefined();
    scanner.push(Buffer.from(',"model":"a'));
    expect(scanner.openFieldStart).toBe(24);
    scanner.push(Buffer.from('b\\'));
    expect(scanner.openFieldStart).toBe(24);
    scanner.push(Buffer.from('n"'));
    expect(scanner.openFieldStart).toBeUndefined();
    expect(scanner.fieldRange('model')).toEqual({ start: 24, end: 30 });
    expect(scanner.fieldRange('user')).toBeUndefined();
    expect(scanner.fieldRange('other')).toBeUndefined();
  });
});

describe('a scan to the end', () => {
  const toEnd = { ...planFor('model'), toEnd: true };

  it('goes on though all is known, so that a second value takes the first away', () => {
    const scanner = new BodyScanner(toEnd);
    expect(scanner.push(Buffer.from('{"model":"a"'))).toBe('scanning');
    expect(scanner.field('model')).toBe('a');
    expect(scanner.push(Buffer.from(',"model"'))).toBe('scanning');
    expect([scanner.field('model'), scanner.fieldRange('model')]).toEqual([undefined, undefined]);
    expect(scanner.push(Buffer.from(':"b"}'))).toBe('done');
    expect(scanner.field('model')).toBeUndefined();
  });

  it('notices what is wrong behind the field', () => {
    expect(scan(toEnd, '{"model":"a","x":}').status).toBe('malformed');
    expect(scan(toEnd, '{"model":"a"').status).toBe('truncated');
    expect(scan(toEnd, '{"model":"a"}').status).toBe('done');
  });
});

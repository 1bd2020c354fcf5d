import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  metadataString,
  metadataStrings,
  structString,
  structStrings,
  toDuration,
  toMs,
  toStruct,
  type Metadata,
  type ProcessingResponse,
  type Struct,
} from './messages.ts';
import { decodeProcessingRequest, decodeProcessingResponse, encodeProcessingRequest, encodeProcessingResponse } from './proto.ts';

/** The struct as it arrives at the other end. */
function sent(struct: Struct): Struct | undefined {
  return decodeProcessingResponse(encodeProcessingResponse({ dynamic_metadata: struct })).dynamic_metadata;
}

function sentMetadata(metadata: Metadata): Metadata | undefined {
  return decodeProcessingRequest(encodeProcessingRequest({ metadata_context: metadata })).metadata_context;
}

describe('toStruct', () => {
  it('carries every kind of value over the wire', () => {
    const struct = sent(toStruct({ text: 'a', empty: '', count: 2.5, no: false, list: ['x', ['y'], []], nested: { deep: { key: 'z' } } }));
    expect(struct).toEqual({
      fields: {
        text: { kind: 'stringValue', stringValue: 'a' },
        empty: { kind: 'stringValue', stringValue: '' },
        count: { kind: 'numberValue', numberValue: 2.5 },
        no: { kind: 'boolValue', boolValue: false },
        list: {
          kind: 'listValue',
          listValue: {
            values: [
              { kind: 'stringValue', stringValue: 'x' },
              { kind: 'listValue', listValue: { values: [{ kind: 'stringValue', stringValue: 'y' }] } },
              { kind: 'listValue', listValue: {} },
            ],
          },
        },
        nested: {
          kind: 'structValue',
          structValue: {
            fields: { deep: { kind: 'structValue', structValue: { fields: { key: { kind: 'stringValue', stringValue: 'z' } } } } },
          },
        },
      },
    });
  });

  it('writes the bytes that protobuf prescribes for a struct', () => {
    // dynamic_metadata (8) { fields (1) { key (1) "k", value (2) { string_value (3) "v" } } }
    const expected = Buffer.from([0x42, 10, 0x0a, 8, 0x0a, 1, 0x6b, 0x12, 3, 0x1a, 1, 0x76]);
    expect(encodeProcessingResponse({ dynamic_metadata: toStruct({ k: 'v' }) })).toEqual(expected);
  });

  it('is needed, because the codec drops snake_case kinds silently', () => {
    const wrong = { dynamic_metadata: { fields: { k: { string_value: 'v' } } } } as unknown as ProcessingResponse;
    expect(decodeProcessingResponse(encodeProcessingResponse(wrong)).dynamic_metadata).toEqual({ fields: { k: {} } });
  });

  it('keeps any string under any key, names that objects inherit included', () => {
    const key = fc.oneof(fc.string({ unit: 'grapheme' }), fc.constantFrom('__proto__', 'constructor', 'toString', 'fields'));
    fc.assert(
      fc.property(key, fc.string({ unit: 'grapheme' }), fc.array(fc.string({ unit: 'grapheme' })), (name, text, list) => {
        expect(structString(sent(toStruct(Object.fromEntries([[name, text]]))), name)).toBe(text);
        expect(structStrings(sent(toStruct(Object.fromEntries([[name, list]]))), name)).toEqual(list);
      }),
    );
  });
});

describe('structString and structStrings', () => {
  const struct = sent(toStruct({ text: 'a', list: ['x', 1, 'y', ['z']], none: [], count: 2, no: false, nested: { text: 'b' } }));

  it.each([
    ['text', 'a', ['a']],
    ['list', undefined, ['x', 'y']],
    ['none', undefined, []],
    ['count', undefined, []],
    ['no', undefined, []],
    ['nested', undefined, []],
    ['absent', undefined, undefined],
    ['constructor', undefined, undefined],
    ['__proto__', undefined, undefined],
  ])('at %s', (key, text, list) => {
    expect(structString(struct, key)).toBe(text);
    expect(structStrings(struct, key)).toEqual(list);
  });

  it.each([[undefined], [{}], [{ fields: {} }]])('find nothing in %o', (empty) => {
    expect(structString(empty, 'text')).toBeUndefined();
    expect(structStrings(empty, 'text')).toBeUndefined();
  });

  it('take a null for a value of another kind, and a value without a kind too', () => {
    const odd: Struct = { fields: { null: { nullValue: 0 }, nothing: {} } };
    for (const key of ['null', 'nothing']) {
      expect(structString(odd, key)).toBeUndefined();
      expect(structStrings(odd, key)).toEqual([]);
    }
  });
});

describe('metadataString and metadataStrings', () => {
  const metadata = sentMetadata({
    filter_metadata: {
      'envoy.lb': toStruct({ served: '10.0.0.1:8000' }),
      'envoy.lb.subset_hint': toStruct({ subset: ['10.0.0.1:8000', '[fd00::1]:8000'] }),
    },
  });

  it('read one namespace', () => {
    expect(metadataString(metadata, 'envoy.lb', 'served')).toBe('10.0.0.1:8000');
    expect(metadataStrings(metadata, 'envoy.lb.subset_hint', 'subset')).toEqual(['10.0.0.1:8000', '[fd00::1]:8000']);
  });

  it.each([
    [undefined, 'envoy.lb'],
    [{}, 'envoy.lb'],
    [metadata, 'other'],
    [metadata, 'constructor'],
    [metadata, '__proto__'],
  ])('find nothing in %o at %s', (where, namespace) => {
    expect(metadataString(where, namespace, 'served')).toBeUndefined();
    expect(metadataStrings(where, namespace, 'served')).toBeUndefined();
  });
});

describe('toMs and toDuration', () => {
  it.each([
    [{}, 0],
    [{ seconds: 2 }, 2000],
    [{ nanos: 1_500_000 }, 1.5],
    [{ seconds: 1, nanos: 250_000_000 }, 1250],
    [{ seconds: -1, nanos: -500_000_000 }, -1500],
    [{ seconds: 1_700_000_000, nanos: 123_000_000 }, 1_700_000_000_123],
  ])('%o is %d ms', (duration, ms) => {
    expect(toMs(duration)).toBe(ms);
  });

  it('leaves an absent duration absent', () => {
    expect(toMs(undefined)).toBeUndefined();
  });

  it.each([
    [1500, { seconds: 1, nanos: 500_000_000 }],
    [0.000_001, { seconds: 0, nanos: 1 }],
    [999.999_999_9, { seconds: 1, nanos: 0 }],
    [-999.999_999_9, { seconds: -1, nanos: 0 }],
    [-1500, { seconds: -1, nanos: -500_000_000 }],
  ])('%d ms is %o', (ms, duration) => {
    expect(toDuration(ms)).toEqual(duration);
  });

  it('give milliseconds back unchanged, with valid parts', () => {
    fc.assert(
      fc.property(fc.double({ min: -1e9, max: 1e9, noNaN: true }), (ms) => {
        const duration = toDuration(ms);
        expect(toMs(duration)).toBeCloseTo(ms, 5);
        expect(Number.isInteger(duration.seconds)).toBe(true);
        expect(Number.isInteger(duration.nanos)).toBe(true);
        expect(Math.abs(duration.nanos ?? 0)).toBeLessThan(1e9);
        expect((duration.seconds ?? 0) * (duration.nanos ?? 0)).toBeGreaterThanOrEqual(0);
      }),
    );
  });
});

import { describe, expect, it } from 'vitest';
import { type Metadata, type StructInput, toStruct } from './messages.ts';
import { decodeProcessingRequest, encodeProcessingRequest } from './proto.ts';
import { readServedEndpoint, readSubsetHint } from './subset-hint.ts';

const key = 'x-gateway-destination-endpoint-subset';

/** Metadata of one namespace, as it arrives. */
function metadata(namespace: string, record: Record<string, StructInput>): Metadata | undefined {
  return decodeProcessingRequest(encodeProcessingRequest({ metadata_context: { filter_metadata: { [namespace]: toStruct(record) } } }))
    .metadata_context;
}

describe('readSubsetHint', () => {
  it.each<[string, StructInput, string[]]>([
    ['a list', ['10.0.0.1:8000', '10.0.0.1:8001'], ['10.0.0.1:8000', '10.0.0.1:8001']],
    ['an empty list', [], []],
    ['a string with commas', ' 10.0.0.1:8000 ,[fd00::1]:80,', ['10.0.0.1:8000', '[fd00::1]:80']],
    ['a list of such strings', ['a:1,b:2', 'c:3'], ['a:1', 'b:2', 'c:3']],
    ['an empty string', '', []],
    ['repetitions', ['a:1', 'a:1'], ['a:1']],
    // Something was allowed, and nothing that we can read: no endpoint is safe.
    ['something else', 7, []],
    ['other elements', [7, true], []],
  ])('reads %s', (_, value, expected) => {
    expect([...(readSubsetHint(metadata('envoy.lb.subset_hint', { [key]: value })) ?? ['none'])]).toEqual(expected);
  });

  it.each([
    ['no metadata', undefined],
    ['another namespace', metadata('envoy.lb', { [key]: ['a:1'] })],
    ['another key', metadata('envoy.lb.subset_hint', { other: ['a:1'] })],
  ])('allows the whole pool without a hint: %s', (_, given) => {
    expect(readSubsetHint(given)).toBeUndefined();
  });

  it('looks at a bounded number of addresses', () => {
    const many = Array.from({ length: 10_500 }, (_, i) => `h:${i}`);
    expect(readSubsetHint(metadata('envoy.lb.subset_hint', { [key]: many }))?.size).toBe(10_000);
    expect(readSubsetHint(metadata('envoy.lb.subset_hint', { [key]: many.join(',') }))?.size).toBe(10_000);
    expect(readSubsetHint(metadata('envoy.lb.subset_hint', { [key]: [many.slice(0, 6_000).join(','), many.slice(6_000).join(',')] }))?.size).toBe(
      10_000,
    );
  });
});

describe('readServedEndpoint', () => {
  it('reads the address that answered', () => {
    expect(readServedEndpoint(metadata('envoy.lb', { 'x-gateway-destination-endpoint-served': '10.0.0.1:8000' }))).toBe('10.0.0.1:8000');
    expect(readServedEndpoint(metadata('other', { 'x-gateway-destination-endpoint-served': '10.0.0.1:8000' }))).toBeUndefined();
    expect(readServedEndpoint(undefined)).toBeUndefined();
  });
});

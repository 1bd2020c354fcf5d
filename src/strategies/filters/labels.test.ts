import type { z } from 'zod';
import { describe, expect, it } from 'vitest';
import { endpointsOf, inputFor } from '../../../test/decision-under-test.ts';
import { labels } from './labels.ts';

type Parameters = z.input<typeof labels.parameters>;

/** What the hard and the soft part say of an endpoint with these labels. */
function judge(parameters: Parameters, has: Record<string, string>, headers: Record<string, string> = {}): (string | undefined)[] {
  const [endpoint] = endpointsOf({ labels: has });
  const input = inputFor([endpoint!], { facts: { headers: new Map(Object.entries(headers)) } });
  const parsed = labels.parameters.parse(parameters);
  return [labels.create(parsed)(endpoint!, input), labels.createPreference?.(parsed)?.(endpoint!, input)];
}

describe('labels', () => {
  it.each<[Parameters['require'], Record<string, string>, boolean]>([
    [{ region: 'eu' }, { region: 'eu' }, true],
    [{ region: 'eu' }, { region: 'eu', gpu: 'h100' }, true],
    [{ region: 'eu' }, { region: 'us' }, false],
    [{ region: 'eu' }, { region: 'EU' }, false],
    [{ region: 'eu' }, {}, false],
    [{ region: 'eu' }, { zone: 'eu' }, false],
    [{ region: ['eu', 'uk'] }, { region: 'uk' }, true],
    [{ region: ['eu', 'uk'] }, { region: 'us' }, false],
    [{ region: 'eu', gpu: ['h100', 'h200'] }, { region: 'eu', gpu: 'h200' }, true],
    [{ region: 'eu', gpu: ['h100', 'h200'] }, { region: 'eu', gpu: 'l4' }, false],
    [{ region: 'eu', gpu: ['h100', 'h200'] }, { region: 'us', gpu: 'h100' }, false],
    [{ zone: '' }, { zone: '' }, true],
    [{ zone: '' }, {}, false],
    [{ toString: 'x' }, {}, false],
  ])('require %j of %j: %s', (require, has, passes) => {
    expect(judge({ require: require! }, has)).toEqual([passes ? undefined : 'label-mismatch', undefined]);
    expect(judge({ prefer: require! }, has)).toEqual([undefined, passes ? undefined : 'label-not-preferred']);
  });

  it('takes both at once, one hard, one soft', () => {
    const both = { require: { region: 'eu' }, prefer: { gpu: 'h100' } };
    expect(judge(both, { region: 'eu', gpu: 'h100' })).toEqual([undefined, undefined]);
    expect(judge(both, { region: 'eu', gpu: 'l4' })).toEqual([undefined, 'label-not-preferred']);
    expect(judge(both, { region: 'us', gpu: 'h100' })).toEqual(['label-mismatch', undefined]);
  });

  it.each<[string, Record<string, string>, boolean]>([
    ['the same value', { 'x-shard': '7' }, true],
    ['another value', { 'x-shard': '8' }, false],
    ['an empty value', { 'x-shard': '' }, false],
    ['no header', {}, true],
    ['another header', { 'x-other': '8' }, true],
  ])('requireHeader: %s', (_case, headers, passes) => {
    const parameters = { requireHeader: { shard: 'x-shard' } };
    expect(judge(parameters, { shard: '7' }, headers)[0]).toBe(passes ? undefined : 'label-mismatch');
    // An endpoint without the label serves only requests that do not name a value.
    expect(judge(parameters, {}, headers)[0]).toBe(headers['x-shard'] === undefined ? undefined : 'label-mismatch');
  });

  it('says which headers it looks at', () => {
    expect(labels.headersOf?.({ requireHeader: { shard: 'x-shard', version: 'x-version' } })).toEqual(['x-shard', 'x-version']);
    expect(labels.headersOf?.({ require: { region: 'eu' } })).toEqual([]);
  });

  it.each([{}, { require: {} }, { prefer: {} }, { require: { region: [] } }, { require: { region: 1 } }, { requireHeader: {} }, { requireHeader: { shard: 'X-Shard' } }])(
    'refuses %j',
    (parameters) => {
      expect(labels.parameters.safeParse(parameters).success).toBe(false);
    },
  );
});

import { describe, expect, it } from 'vitest';
import { type EndpointSnapshot, idleEndpoint } from '../../core/fleet-snapshot.ts';
import type { DecisionInput } from '../../core/policy.ts';
import { noFacts } from '../../core/request-facts.ts';
import { measured } from '../../../test/measured-endpoints.ts';
import { lora } from './lora.ts';

const rate = (candidates: readonly EndpointSnapshot[], model: string | undefined, baseModels: string[] = []): readonly number[] =>
  lora.create({ baseModels })(candidates, { facts: { ...noFacts, model } } as DecisionInput);
const holding = (adapters: string[], adaptersMax?: number): EndpointSnapshot => measured({ adapters: new Set(adapters), adaptersMax });

describe('lora', () => {
  it('prefers the adapter loaded, then free slots, then unknown, then full', () => {
    const candidates = [holding(['sql', 'chat'], 2), holding(['sql'], 4), holding([], 4), holding(['legal'], 4), idleEndpoint('10.0.0.9:80'), holding(['legal', 'chat'], 2)];
    expect(rate(candidates, 'sql')).toEqual([1, 1, 0.9, 0.8, 0.5, 0]);
  });

  it('cannot tell whether there is room where the server does not say how much', () => {
    expect(rate([holding(['legal']), holding(['sql'])], 'sql')).toEqual([0.5, 1]);
  });

  it('treats a server without any slot, or with more adapters than slots, as full', () => {
    expect(rate([holding([], 0), holding(['a', 'b'], 1)], 'sql')).toEqual([0, 0]);
  });

  it('is neutral for base models, and for requests without a model', () => {
    const candidates = [holding(['sql'], 4), holding([], 4)];
    expect(rate(candidates, 'meta-llama/Llama-3.1-8B', ['meta-llama/*'])).toEqual([0.5, 0.5]);
    expect(rate(candidates, undefined)).toEqual([0.5, 0.5]);
    expect(rate(candidates, 'sql', ['meta-llama/*'])).toEqual([1, 0.9]);
  });
});

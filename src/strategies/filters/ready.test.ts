import { describe, expect, it } from 'vitest';
import type { EndpointSnapshot, EndpointState } from '../../core/fleet-snapshot.ts';
import type { DecisionInput } from '../../core/policy.ts';
import { ready } from './ready.ts';

describe('ready', () => {
  it.each<[EndpointState, string | undefined]>([
    ['ready', undefined],
    ['not-ready', 'not-ready'],
    ['ejected', 'ejected'],
    ['draining', 'draining'],
  ])('%s: %s', (state, reason) => {
    expect(ready.create({})({ state } as EndpointSnapshot, {} as DecisionInput)).toBe(reason);
  });
});

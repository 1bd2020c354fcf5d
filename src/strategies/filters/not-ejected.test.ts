import { describe, expect, it } from 'vitest';
import { endpointsOf, inputFor } from '../../../test/decision-under-test.ts';
import type { EndpointState } from '../../core/fleet-snapshot.ts';
import { notEjected } from './not-ejected.ts';

describe('not-ejected', () => {
  it.each<[EndpointState, string | undefined]>([
    ['ready', undefined],
    ['not-ready', undefined],
    ['draining', undefined],
    ['ejected', 'ejected'],
  ])('%s: %s', (state, reason) => {
    const [endpoint] = endpointsOf({ state });
    expect(notEjected.create({})(endpoint!, inputFor([endpoint!]))).toBe(reason);
  });
});

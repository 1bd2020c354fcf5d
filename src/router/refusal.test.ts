import { describe, expect, it } from 'vitest';
import { decide } from '../core/decide.ts';
import type { Decision } from '../core/decision.ts';
import type { RefusalCode } from './ports.ts';
import { moreTelling, refusalCodeOf, toRefusal } from './refusal.ts';

// Codes and statuses are API: clients and dashboards hang on them.
describe('toRefusal', () => {
  it.each<[RefusalCode, number, number | undefined]>([
    ['model_required', 400, undefined],
    ['model_not_found', 404, undefined],
    ['route_not_found', 404, undefined],
    ['no_ready_endpoint', 503, 1],
    ['residency_unavailable', 503, 1],
    ['subset_unavailable', 503, 1],
    ['overloaded', 429, 1],
    ['shed_priority', 429, 1],
    ['deadline_unreachable', 503, 1],
    ['prompt_too_long', 400, undefined],
    ['body_not_rewritable', 400, undefined],
    ['rewrite_unsupported', 503, undefined],
    ['internal_error', 503, 1],
  ])('%s: %d, to be retried after %s s', (code, status, retryAfterS) => {
    const refusal = toRefusal(code);
    expect(refusal).toMatchObject({ kind: 'refuse', code, status, retryAfterS });
    expect(refusal.message).toMatch(/^[A-Z].+\.$/);
  });
});

describe('refusalCodeOf', () => {
  type None = Extract<Decision, { kind: 'none' }>;
  const none = (cause: None['cause'], ...filters: string[]): None => ({
    kind: 'none',
    cause,
    trace: { policy: 'p', candidates: [], scores: [], rejections: filters.map((filter) => ({ address: '10.0.0.1:80', filter, reason: 'x' })) },
  });

  it.each<[None, RefusalCode]>([
    [none('not-ready'), 'no_ready_endpoint'],
    [none('not-ready', 'ready'), 'no_ready_endpoint'],
    [none('not-ready', 'ready', 'residency'), 'residency_unavailable'],
    [none('not-ready', 'ready', 'residency', 'deadline'), 'deadline_unreachable'],
    [none('saturated', 'within-limits', 'deadline', 'residency'), 'overloaded'],
    [none('saturated', 'within-limits', 'saturation'), 'shed_priority'],
    [none('not-ready', 'saturation'), 'shed_priority'],
    [none('too-long', 'within-limits'), 'prompt_too_long'],
    [none('subset', 'subset'), 'subset_unavailable'],
  ])('%o: %s', (decision, code) => {
    expect(refusalCodeOf(decision)).toBe(code);
  });

  it('knows the names that filters have in a trace', () => {
    const policy = {
      name: 'p',
      filters: [{ name: 'residency', run: () => 'outside-residency' }],
      scorers: [],
      picker: { name: 'none', run: () => ({ order: [], reason: '', home: undefined }) },
      needs: new Set<never>(),
      wantsFirstToken: false,
    };
    const pool = { name: 'chat', endpoints: [{ address: '10.0.0.1:80' }] };
    const decision = decide(policy, { facts: {}, pool } as unknown as Parameters<typeof decide>[1]);
    expect(decision.kind === 'none' && refusalCodeOf(decision)).toBe('residency_unavailable');
  });
});

describe('moreTelling', () => {
  it('prefers what waiting or another priority would cure, in either order', () => {
    expect(moreTelling(undefined, 'no_ready_endpoint')).toBe('no_ready_endpoint');
    for (const [more, less] of [
      ['shed_priority', 'overloaded'],
      ['overloaded', 'no_ready_endpoint'],
      ['deadline_unreachable', 'residency_unavailable'],
      ['residency_unavailable', 'no_ready_endpoint'],
      ['no_ready_endpoint', 'prompt_too_long'],
      ['prompt_too_long', 'subset_unavailable'],
    ] as const) {
      expect(moreTelling(more, less)).toBe(more);
      expect(moreTelling(less, more)).toBe(more);
    }
  });
});

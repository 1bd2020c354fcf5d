import { describe, expect, it } from 'vitest';
import type { RefusalCode } from './ports.ts';
import { toRefusal } from './refusal.ts';

// Codes and statuses are API: clients and dashboards hang on them.
describe('toRefusal', () => {
  it.each<[RefusalCode, number, number | undefined]>([
    ['model_required', 400, undefined],
    ['model_not_found', 404, undefined],
    ['route_not_found', 404, undefined],
    ['no_ready_endpoint', 503, 1],
    ['subset_unavailable', 503, 1],
    ['overloaded', 429, 1],
    ['internal_error', 503, 1],
  ])('%s: %d, to be retried after %s s', (code, status, retryAfterS) => {
    const refusal = toRefusal(code);
    expect(refusal).toMatchObject({ kind: 'refuse', code, status, retryAfterS });
    expect(refusal.message).toMatch(/^[A-Z].+\.$/);
  });
});

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { listMetrics, renderMetricDocs } from '../../scripts/metrics-docs.ts';

const rows = await listMetrics();

describe('docs/metrics.md', () => {
  it('is what the registry makes of it; `npm run docs` writes it', () => {
    expect(readFileSync(fileURLToPath(new URL('../../docs/metrics.md', import.meta.url)), 'utf8')).toBe(renderMetricDocs(rows));
  });

  it('says of every metric what it is, in a sentence', () => {
    for (const { name, help } of rows) expect([name, help]).toEqual([name, expect.stringMatching(/^(ext_proc |[A-Z0-9]).{8,}\.$/)]);
  });
});

describe('every metric', () => {
  it("is named by Prometheus' conventions: one prefix, base units, _total for counters and for them alone", () => {
    for (const { name, type } of rows) {
      expect(name).toMatch(/^fairlead_[a-z][a-z0-9]*(_[a-z0-9]+)*$/);
      expect([name, name.endsWith('_total')]).toEqual([name, type === 'counter']);
      expect(name).not.toMatch(/_(ms|milliseconds|minutes|percent|kilobytes|count|sum|bucket)(_total)?$/);
      if (type === 'histogram') expect(name).toMatch(/_seconds$/);
    }
  });

  it('has labels of few values: nothing that a client sends', () => {
    const known = new Set([
      ...['pool', 'endpoint', 'route', 'cluster', 'policy', 'version', 'state', 'to', 'cause', 'reason', 'filter', 'ending', 'signal', 'status_class'],
      ...['code', 'outcome', 'phase', 'better', 'source', 'worker'],
    ]);
    for (const { name, labels } of rows) for (const label of labels) expect([name, label, known.has(label)]).toEqual([name, label, true]);
  });
});

import { execFileSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { checkDashboard, dashboardExpressions, fillVariables } from '../../scripts/prometheus-checks.ts';

const hasPromtool = ((): boolean => {
  try {
    execFileSync(process.env['PROMTOOL_BIN'] ?? 'promtool', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
})();

describe('the Grafana dashboard', () => {
  it.skipIf(!hasPromtool)('has expressions that promtool takes, and only such (skipped without promtool; `npm run check:deploy` says so)', async () => {
    expect(dashboardExpressions().length).toBeGreaterThan(20);
    await checkDashboard();
  });

  it.skipIf(!hasPromtool).each([
    ['a parenthesis that is left open', 'sum(rate(fairlead_decisions_total[$__rate_interval])'],
    ['a range that a function does not take', 'rate(fairlead_decisions_total)'],
    ['a function that does not exist', 'rates(fairlead_decisions_total[$__rate_interval])'],
    ['a variable of no dashboard', 'fairlead_decisions_total{pool=~"$pools"}'],
  ])('may not have %s', async (_, text) => {
    await expect(checkDashboard([...dashboardExpressions(), { where: 'here', text }])).rejects.toThrow(/dashboard|here/);
  });

  it('is read as Grafana sends it', () => {
    expect(fillVariables('rate(a{pool=~"$pool|", x="${pool}"}[$__rate_interval]) > 0')).toBe('rate(a{pool=~"chat|.*|", x="chat|.*"}[5m]) > 0');
    expect(fillVariables('a{b="$unknown"}')).toBe('a{b="$unknown"}');
  });
});

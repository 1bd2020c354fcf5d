import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { equivalents, exampleOf, renderStrategyDocs } from '../../scripts/strategy-docs.ts';
import { loadConfig } from '../../src/config/load.ts';
import { presets } from '../../src/strategies/presets.ts';
import { registry } from '../../src/strategies/registry.ts';

const page = renderStrategyDocs();
const strategies = [...registry.filters.values(), ...registry.scorers.values(), ...registry.pickers.values()];

describe('docs/strategies.md', () => {
  it('is what the registry makes of it; `npm run docs` writes it', () => {
    expect(readFileSync(fileURLToPath(new URL('../../docs/strategies.md', import.meta.url)), 'utf8')).toBe(page);
  });

  it.each(strategies)('has a page of $type that tells all there is to tell', (strategy) => {
    const from = page.indexOf(`\n### ${strategy.type}\n`);
    expect(from).toBeGreaterThan(-1);
    const own = page.slice(from, page.indexOf('\n### ', from + 5) === -1 ? undefined : page.indexOf('\n### ', from + 5));
    for (const part of [strategy.prefers, strategy.wrongWhen, strategy.source]) expect(own).toContain(part);
    expect(own).toContain('**Formula:**');
    // A parameter without a description shows as an empty last cell.
    expect(own).not.toMatch(/\| +\|$/m);
  });

  it.each(strategies)('shows a configuration of $type that is valid', (strategy) => {
    const outcome = loadConfig(stringify({ pools: [{ name: 'chat', policy: exampleOf(strategy), endpoints: [{ address: '10.0.0.1:80' }] }] }));
    expect(outcome.ok ? [] : outcome.problems).toEqual([]);
  });

  it('links to nothing that is not there', () => {
    const targets = new Set([...page.matchAll(/^### (.+)$/gm)].map(([, title]) => title).concat([...page.matchAll(/<a id="([^"]+)">/g)].map(([, id]) => id)));
    for (const [, target] of page.matchAll(/\]\(#([^)]+)\)/g)) expect(targets).toContain(target);
  });

  it('names counterparts of nothing but strategies and presets, and has a row for each of these', () => {
    const known = new Set([...Object.keys(presets), ...strategies.map(({ type }) => type)]);
    expect(Object.keys(equivalents).filter((name) => !known.has(name))).toEqual([]);
    for (const name of known) expect(page).toMatch(new RegExp(`^\\| \\[\`${name}\`\\]`, 'm'));
  });
});

import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import { presets } from '../strategies/presets.ts';
import { registry } from '../strategies/registry.ts';
import { loadConfig, loadConfigFile } from './load.ts';
import type { CompiledConfig } from './load-outcome.ts';
import type { Problem } from './problem.ts';

const repository = fileURLToPath(new URL('../../', import.meta.url));
const fixtures = path.join(repository, 'test/fixtures/config');

function usable(text: string, folder?: string): CompiledConfig {
  const outcome = loadConfig(text, folder);
  if (!outcome.ok) throw new Error(JSON.stringify(outcome.problems));
  return outcome.config;
}

function problemsOf(text: string): readonly Problem[] {
  const outcome = loadConfig(text);
  return outcome.ok ? [] : outcome.problems;
}

const minimal = readFileSync(path.join(fixtures, 'good/minimal.yaml'), 'utf8');
const fullFile = path.join(fixtures, 'good/full.yaml');
const full = readFileSync(fullFile, 'utf8');

describe('what is left out', () => {
  it('has its default, down to the last field', () => {
    const { settings } = usable(minimal);
    expect(settings).toEqual({
      listen: { grpc: '127.0.0.1:9002', admin: '127.0.0.1:9003' },
      state: { kind: 'memory' },
      affinity: {},
      facts: {
        model: [{ header: 'x-model' }, { body: 'model' }],
        session: [{ header: 'x-session-id' }, { cookie: 'fairlead-session' }, { body: 'prompt_cache_key' }, { body: 'user' }],
        tenant: [{ header: 'x-tenant-id' }],
      },
      outputs: { clusterHeader: 'x-fairlead-cluster', endpointHeader: 'x-gateway-destination-endpoint', endpointsMax: 8 },
      pools: [
        {
          name: 'chat',
          policy: { preset: 'session-affinity' },
          observe: { firstToken: false },
          endpoints: [{ address: '10.0.0.1:8000', weight: 1, labels: {}, limits: {} }],
        },
      ],
      leases: { expireAfterMsMax: 1_800_000, assumedDurationMs: 30_000 },
      limits: { scanBytesMax: 1_048_576, askForBodyBytesMax: 16_777_216, messageBytesMax: 67_108_864, decideDeadlineMs: 5_000 },
      drain: { readinessDelayMs: 1_000, deadlineMs: 30_000 },
      log: { level: 'info' },
    });
  });

  it('sends everything to the one pool, whose cluster bears its name', () => {
    const { table, pools } = usable(minimal);
    expect(pools).toEqual([{ name: 'chat', endpoints: [{ address: '10.0.0.1:8000', weight: 1, labels: {}, requestsMax: undefined }] }]);
    expect(table.routes).toMatchObject([
      { matchesModel: undefined, matchesPath: undefined, targets: [{ pool: { name: 'chat', cluster: 'chat', observeFirstToken: false }, weight: 100 }] },
    ]);
    expect([...table.needs].sort()).toEqual(['promptTokens', 'session']);
  });

  it('is an affinity secret of its own for every start', () => {
    const [one, other] = [usable(minimal).affinitySecret, usable(minimal).affinitySecret];
    expect(one).toMatch(/^[0-9a-f]{64}$/);
    expect(other).not.toBe(one);
  });

  it('is warned of where it leaves pools without requests', () => {
    const pool = (name: string): string => `{ name: ${name}, endpoints: [{ address: '10.0.0.1:80' }] }`;
    expect(loadConfig(`pools: [${pool('chat')}, ${pool('batch')}]`)).toMatchObject({
      ok: true,
      warnings: [{ path: 'routes', message: 'absent: all requests go to the first pool (chat), the others get none' }],
    });
    expect(loadConfig(minimal)).toMatchObject({ ok: true, warnings: [] });
  });
});

describe('a configuration with every field', () => {
  const { settings, affinitySecret, pools, table } = usable(full, path.dirname(fullFile));

  it('keeps each as written', () => {
    const { affinity, pools: writtenPools, ...written } = parse(full) as Record<string, unknown>;
    expect(settings).toMatchObject({ affinity, pools: [{}, {}] });
    // Nothing but what has a default may have been added.
    const { routes, ...rest } = written as { routes: { match?: object; targets: object[] }[] };
    expect(settings).toMatchObject(rest);
    expect(settings.routes).toHaveLength(routes.length);
    expect(settings.pools).toMatchObject([
      (writtenPools as object[])[0],
      { policy: { filters: [{ type: 'ready' }, { type: 'within-limits' }], scorers: [{ weight: 0.5 }, { type: 'least-requests' }], picker: { type: 'highest-score' } } },
    ]);
  });

  it('differs from the defaults in every field', () => {
    const defaults = usable(minimal).settings;
    const sections = ['listen', 'facts', 'outputs', 'leases', 'limits', 'drain', 'log'] as const;
    for (const section of sections) {
      for (const [field, value] of Object.entries(defaults[section])) {
        expect([section, field, (settings[section] as Record<string, unknown>)[field]]).not.toEqual([section, field, value]);
      }
    }
  });

  it('takes the secret from its file, found from the folder of the configuration', () => {
    expect(affinitySecret).toBe('secret-of-the-fixtures');
    expect(loadConfigFile(fullFile)).toMatchObject({ ok: true, warnings: [] });
  });

  it('becomes pools', () => {
    expect(pools).toEqual([
      {
        name: 'chat',
        endpoints: [
          { address: '10.0.0.1:8000', weight: 2.5, labels: { gpu: 'h100', zone: '' }, requestsMax: 64 },
          { address: '[2001:db8::1]:65535', weight: 1, labels: {}, requestsMax: undefined },
        ],
      },
      { name: 'Batch.2_b-c', endpoints: [{ address: '10.0.0.1:8000', weight: 1, labels: {}, requestsMax: undefined }] },
    ]);
  });

  it('becomes routes', () => {
    const [chosen, embeddings, rest] = table.routes;
    expect(chosen?.targets.map(({ pool, weight }) => [pool.name, weight])).toEqual([
      ['chat', 90],
      ['Batch.2_b-c', 10],
      ['chat', 0],
    ]);
    expect(chosen?.matchesModel?.('meta-llama/Llama-3')).toBe(true);
    expect(chosen?.matchesModel?.('gpt-4')).toBe(false);
    expect(chosen?.matchesPath?.('/v1/completions')).toBe(true);
    expect(chosen?.matchesPath?.('/v2/completions')).toBe(false);
    expect([...(chosen?.needs ?? [])].sort()).toEqual(['promptTokens', 'session']);
    expect(embeddings).toMatchObject({ matchesModel: undefined, needs: new Set() });
    expect(rest).toMatchObject({ matchesModel: undefined, matchesPath: undefined });
    expect(rest?.targets[0]?.pool).toMatchObject({ cluster: 'outbound|8000||chat.models.svc.cluster.local', observeFirstToken: true });
  });

  it('becomes policies, with names for traces, weights, and parameters in effect', () => {
    const [chat, batch] = table.routes[0]!.targets.map(({ pool }) => pool.policy);
    expect(chat).toMatchObject({ name: 'session-affinity', filters: [{ name: 'ready' }, { name: 'within-limits' }], picker: { name: 'session-affinity' } });
    expect(batch).toMatchObject({
      name: 'pipeline',
      filters: [{ name: 'ready' }, { name: 'within-limits' }],
      scorers: [
        { name: 'least-requests', weight: 0.5 },
        { name: 'least-requests', weight: 1 },
      ],
      picker: { name: 'highest-score' },
      needs: new Set(),
    });
  });

  describe('unknown fields', () => {
    // Free by their nature: any name is known there.
    const isFree = (at: string): boolean => /\.(labels|parameters)$/.test(at);

    /** Every object in the file, by path. */
    function objectsOf(value: unknown, at = ''): [path: string, value: Record<string, unknown>][] {
      if (Array.isArray(value)) return value.flatMap((item, i) => objectsOf(item, `${at}[${i}]`));
      if (typeof value !== 'object' || value === null) return [];
      const here = value as Record<string, unknown>;
      return [[at, here], ...Object.entries(here).flatMap(([name, inner]) => objectsOf(inner, at === '' ? name : `${at}.${name}`))];
    }
    const paths = objectsOf(parse(full)).map(([at]) => at);

    it('are looked for at every level', () => {
      expect(paths.length).toBeGreaterThan(40);
      expect(paths).toContain('');
      expect(paths).toContain('pools[1].policy.filters[1]');
    });

    it.each(paths.filter((at) => !isFree(at)).map((at) => [at === '' ? '(top)' : at, at]))('are refused in %s, by their path', (_name, at) => {
      const changed: unknown = parse(full);
      objectsOf(changed).find(([path]) => path === at)![1]['surprise'] = 1;
      const outcome = loadConfig(stringify(changed, { aliasDuplicateObjects: false }), path.dirname(fullFile));
      expect(outcome).toEqual({ ok: false, problems: [{ path: at === '' ? 'surprise' : `${at}.surprise`, message: 'unknown field' }] });
    });

    it.each(paths.filter((at) => at.endsWith('.parameters')))('are refused in %s, by the strategy', (at) => {
      const changed: unknown = parse(full);
      objectsOf(changed).find(([path]) => path === at)![1]['surprise'] = 1;
      const outcome = loadConfig(stringify(changed, { aliasDuplicateObjects: false }), path.dirname(fullFile));
      expect(outcome).toMatchObject({ ok: false, problems: [{ path: `${at}.surprise`, message: expect.stringMatching(/^unknown parameter of [a-z-]+$/) as string }] });
    });
  });
});

describe('every rule', () => {
  const listed = { filters: [...registry.filters.keys()], scorers: [...registry.scorers.keys()], pickers: [...registry.pickers.keys()], presets: Object.keys(presets) };

  /** What a fixture says is wrong with it: lines `# problem: PATH | MESSAGE`, where `<filters>` and the like stand for what is registered. */
  function expectedIn(text: string): Problem[] {
    return [...text.matchAll(/^# problem: (.*?) \| (.+)$/gm)].map(([, at, message]) => ({
      path: at!,
      message: message!.replace(/<(filters|scorers|pickers|presets)>/, (_all, kind: keyof typeof listed) => listed[kind].join(', ')),
    }));
  }

  it.each(readdirSync(path.join(fixtures, 'bad')))('%s: refused for exactly the reasons that it names', (file) => {
    const at = path.join(fixtures, 'bad', file);
    const problems = expectedIn(readFileSync(at, 'utf8'));
    expect(problems.length).toBeGreaterThan(0);
    expect(loadConfigFile(at)).toEqual({ ok: false, problems });
  });
});

describe('files', () => {
  it('a configuration that is not there', () => {
    const outcome = loadConfigFile(path.join(fixtures, 'absent.yaml'));
    expect(outcome).toMatchObject({ ok: false, problems: [{ path: '', message: expect.stringMatching(/^cannot be read: ENOENT/) as string }] });
  });

  it('a configuration that is a folder', () => {
    expect(loadConfigFile(fixtures)).toMatchObject({ ok: false, problems: [{ path: '', message: expect.stringMatching(/^cannot be read: EISDIR/) as string }] });
  });

  it('a secret file that is not there', () => {
    const outcome = loadConfig(`${minimal}\naffinity: { secretFile: absent.txt }`, fixtures);
    expect(outcome).toMatchObject({ ok: false, problems: [{ path: 'affinity.secretFile', message: expect.stringMatching(/^cannot be read: ENOENT/) as string }] });
  });

  it('a secret file is taken without the line end that editors add', () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'fairlead-config-'));
    try {
      writeFileSync(path.join(folder, 'secret'), '  of our own \r\n');
      expect(usable(`${minimal}\naffinity: { secretFile: secret }`, folder).affinitySecret).toBe('of our own');
      expect(usable(`${minimal}\naffinity: { secretFile: ${path.join(folder, 'secret')} }`).affinitySecret).toBe('of our own');
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe('the shipped example', () => {
  it('is usable, without a warning', () => {
    expect(loadConfigFile(path.join(repository, 'fairlead.example.yaml'))).toMatchObject({ ok: true, warnings: [] });
  });
});

describe('whatever stands in a file', () => {
  it.each(['null', '~', '42', 'text', '"\\0"', '\t', '%YAML 9.9\n---\npools: []', '!!binary aGVsbG8=', '<<: 1', '"__proto__": { x: 1 }', 'pools: !!set {a}'])(
    '%j is refused, not thrown at',
    (text) => {
      expect(problemsOf(text).length).toBeGreaterThan(0);
    },
  );

  it('an alias that points nowhere is refused, not thrown at', () => {
    expect(problemsOf('pools: *nowhere').length).toBeGreaterThan(0);
  });
  it('aliases that multiply without end are refused, not thrown at', () => {
    const levels = Array.from({ length: 9 }, (_, i) => `a${i + 1}: &a${i + 1} [${`*a${i}, `.repeat(9)}]`);
    expect(problemsOf(`a0: &a0 [x]\n${levels.join('\n')}`).length).toBeGreaterThan(0);
  });

  it('anchors and aliases work where they stay small', () => {
    const text = "pools:\n  - { name: a, endpoints: &all [{ address: '10.0.0.1:80' }] }\n  - { name: b, endpoints: *all }\nroutes: [{ targets: [{ pool: b }] }]";
    expect(usable(text).pools[1]?.endpoints[0]?.address).toBe('10.0.0.1:80');
  });

  it('a port with leading zeros is refused', () => {
    expect(problemsOf(minimal.replace(':8000', ':08000'))).toHaveLength(1);
  });

  it('one address for both servers is refused', () => {
    expect(problemsOf(`${minimal}\nlisten: { grpc: '127.0.0.1:9002', admin: '127.0.0.1:9002' }`)).toHaveLength(1);
  });

  it('a weight on a filter is refused', () => {
    const text = "pools: [{ name: a, policy: { filters: [{ type: ready, weight: 3 }], picker: round-robin }, endpoints: [{ address: '10.0.0.1:80' }] }]";
    expect(problemsOf(text)).toHaveLength(1);
  });
});

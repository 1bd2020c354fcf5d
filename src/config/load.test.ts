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
      listen: {
        grpc: '127.0.0.1:9002',
        admin: '127.0.0.1:9003',
        transport: 'lean',
        socketMode: '660',
        resetLimit: 'auto',
        keepalive: { intervalMs: 60_000, timeoutMs: 20_000 },
        connectionAge: { maxMs: 0, graceMs: 30_000 },
      },
      workers: 1,
      state: { kind: 'memory' },
      affinity: {},
      facts: {
        model: [{ header: 'x-model' }, { body: 'model' }],
        session: [
          { header: 'x-session-id' },
          { header: 'x-session-affinity' },
          { header: 'x-claude-code-session-id' },
          { header: 'session_id' },
          { header: 'session-id' },
          { cookie: 'fairlead-session' },
          { body: 'prompt_cache_key' },
          { body: 'conversation' },
          { body: 'conversation.id' },
          { body: 'metadata.user_id' },
          { body: 'safety_identifier' },
          { body: 'user' },
        ],
        tenant: [{ header: 'x-tenant-id' }],
        deadline: [{ header: 'x-fairlead-deadline-ms' }, { header: 'x-llm-d-slo-ttft-ms' }],
        priority: [],
      },
      outputs: { clusterHeader: 'x-fairlead-cluster', endpointHeader: 'x-gateway-destination-endpoint', endpointsMax: 8 },
      pools: [
        {
          name: 'chat',
          policy: { preset: 'sticky' },
          observe: {},
          health: {
            passive: { consecutiveFailures: 5, failureShare: 0.5, requestsMin: 10, windowMs: 10_000, backOffMs: 1_000, backOffMsMax: 30_000, trials: 3 },
            slow: { factor: 5, samplesMin: 8 },
            ejectedShareMax: 0.5,
          },
          slowStart: { durationMs: 10_000, initialShare: 0.1 },
          endpoints: [{ address: '10.0.0.1:8000', dpSize: 1, weight: 1, labels: {}, limits: {} }],
        },
      ],
      leases: { expireAfterMsMax: 1_800_000, assumedDurationMs: 30_000 },
      limits: { scanBytesMax: 1_048_576, askForBodyBytesMax: 16_777_216, messageBytesMax: 67_108_864, decideDeadlineMs: 5_000 },
      drain: { readinessDelayMs: 1_000, deadlineMs: 30_000 },
      explain: { header: false, allow: [] },
      decisionLog: { sample: 0, prefixHashes: false, trace: false },
      reload: { watch: true },
      log: { level: 'info' },
    });
  });

  it('sends everything to the one pool, whose cluster bears its name', () => {
    const { table, pools } = usable(minimal);
    expect(pools).toEqual([{ name: 'chat', endpoints: [{ address: '10.0.0.1:8000', weight: 1, labels: {}, requestsMax: undefined }] }]);
    expect(table.routes).toMatchObject([
      { matchesModel: undefined, matchesPath: undefined, targets: [{ pool: { name: 'chat', cluster: 'chat', observeFirstToken: true }, weight: 100 }] },
    ]);
    expect([...table.needs].sort()).toEqual(['prefix', 'promptTokens', 'session']);
  });

  it('is an affinity secret of its own for every start', () => {
    const [one, other] = [usable(minimal).affinitySecret, usable(minimal).affinitySecret];
    expect(one).toMatch(/^[0-9a-f]{64}$/);
    expect(other).not.toBe(one);
  });

  it('is warned of where a retry could miss its rank', () => {
    const endpoints = (...sizes: number[]): string => sizes.map((dpSize, i) => `{ address: '10.0.0.${i + 1}:80', dpSize: ${dpSize} }`).join(', ');
    expect(loadConfig(`pools: [{ name: a, endpoints: [${endpoints(4, 4)}] }]`)).toMatchObject({ ok: true, warnings: [] });
    expect(loadConfig(`pools: [{ name: a, endpoints: [${endpoints(4, 1)}] }]`)).toMatchObject({ ok: true, warnings: [{ path: 'pools[0].endpoints' }] });
  });

  it('is warned of where cookies would not outlive a restart', () => {
    expect(loadConfig(`${minimal}\naffinity: { cookie: {} }`)).toMatchObject({ ok: true, warnings: [{ path: 'affinity.secret' }] });
    expect(loadConfig(`${minimal}\naffinity: { secret: of-our-own, cookie: {} }`)).toMatchObject({ ok: true, warnings: [] });
  });

  it('is warned of scorers that go by metrics where none are read', () => {
    const withPool = (rest: string): unknown => loadConfig(`pools: [{ name: a, endpoints: [{ address: '10.0.0.1:80' }], ${rest} }]`);
    const message = 'absent: lora, queue-depth rates all endpoints the same without what their metrics tell; write metrics: {}';
    expect(withPool('policy: { preset: lora }')).toMatchObject({ ok: true, warnings: [{ path: 'pools[0].metrics', message }] });
    expect(withPool('policy: { preset: lora }, metrics: {}')).toMatchObject({ ok: true, warnings: [] });
    expect(withPool('policy: { preset: least-requests }')).toMatchObject({ ok: true, warnings: [] });
  });

  it('reads metrics once a second where nothing else is written', () => {
    const { settings } = usable("pools: [{ name: a, endpoints: [{ address: '10.0.0.1:80' }], metrics: {} }]");
    expect(settings.pools[0]?.metrics).toEqual({ kind: 'auto', intervalMs: 1_000 });
  });

  it('probes once a second where nothing else is written, and only where probes are wanted', () => {
    const { settings } = usable("pools: [{ name: a, endpoints: [{ address: '10.0.0.1:80' }], health: { probe: {} } }]");
    expect(settings.pools[0]?.health.probe).toEqual({ path: '/health', modelsPath: '/v1/models', intervalMs: 1_000, failures: 2, passes: 1 });
    expect(usable(minimal).settings.pools[0]?.health.probe).toBeUndefined();
  });

  it('is warned of a list of models in which no model is looked for', () => {
    const withProbe = (probe: string): unknown => loadConfig(`pools: [{ name: a, endpoints: [{ address: '10.0.0.1:80' }], health: { probe: ${probe} } }]`);
    const warnings = [{ path: 'pools[0].health.probe.model', message: 'absent: /v1/models is not looked at for what models it lists; name the one that must be loaded' }];
    expect(withProbe('{ path: /v1/models }')).toMatchObject({ ok: true, warnings });
    expect(withProbe('{ modelsPath: /models }')).toMatchObject({ ok: true, warnings: [{ path: 'pools[0].health.probe.model' }] });
    expect(withProbe('{ path: /v1/models, model: llama }')).toMatchObject({ ok: true, warnings: [] });
    expect(withProbe('{ modelsPath: /models, model: llama }')).toMatchObject({ ok: true, warnings: [] });
  });

  it('is warned of a shadow policy that has to do without what the live one does not ask for', () => {
    const withShadow = (shadow: string, live = 'least-requests'): unknown =>
      loadConfig(`pools: [{ name: a, policy: { preset: ${live} }, observe: { firstToken: true }, shadow: ${shadow}, endpoints: [{ address: '10.0.0.1:80' }] }]`);
    const message = 'false: sticky chooses by session, promptTokens, prefix as well, which least-requests does not ask for; it will know only what turns up';
    expect(withShadow('{ policy: { preset: sticky } }')).toMatchObject({ ok: true, warnings: [{ path: 'pools[0].shadow.readBody', message }] });
    expect(withShadow('{ policy: { preset: sticky }, readBody: true }')).toMatchObject({ ok: true, warnings: [] });
    expect(withShadow('{ policy: { preset: session-affinity } }', 'sticky')).toMatchObject({ ok: true, warnings: [] });
  });

  it('asks for no more on account of a shadow policy, unless told to', () => {
    const needsWith = (readBody: boolean): string[] => [
      ...usable(
        `pools: [{ name: a, policy: { preset: least-requests }, shadow: { policy: { preset: sticky }, readBody: ${readBody} }, endpoints: [{ address: '10.0.0.1:80' }] }]`,
      ).table.needs,
    ];
    expect(needsWith(false)).toEqual([]);
    expect(needsWith(true).sort()).toEqual(['prefix', 'promptTokens', 'session']);
  });

  it('may name no endpoints where they are to be found, looked up every 10 s at most', () => {
    const { settings, pools } = usable('pools: [{ name: a, discovery: { dns: { name: chat.example, port: 80 } } }]');
    expect(pools).toEqual([{ name: 'a', endpoints: [] }]);
    expect(settings.pools[0]?.discovery).toEqual({ dns: { name: 'chat.example', type: 'A', port: 80, intervalMs: 10_000, allowEmpty: false } });
  });

  it('has prompts measured where a file may name endpoints of a certain context length', () => {
    const needs = (discovery: string): string[] => [...usable(`pools: [{ name: a, policy: { preset: round-robin }, discovery: ${discovery}, endpoints: [{ address: '10.0.0.1:80' }] }]`).table.needs];
    expect(needs('{ file: endpoints.yaml }')).toEqual(['promptTokens']);
    expect(needs('{ dns: { name: chat.example, port: 80 } }')).toEqual([]);
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
    const sections = ['listen', 'facts', 'outputs', 'leases', 'limits', 'drain', 'explain', 'decisionLog', 'reload', 'log'] as const;
    for (const section of sections) {
      for (const [field, value] of Object.entries(defaults[section])) {
        expect([section, field, (settings[section] as Record<string, unknown>)[field]]).not.toEqual([section, field, value]);
      }
    }
  });

  it('names where endpoints come from beside those written, by absolute path', () => {
    const { files } = usable(full, path.dirname(fullFile));
    expect(settings.pools[1]?.discovery).toEqual({
      file: '../endpoints.yaml',
      dns: { name: '_http._tcp.batch.example', type: 'SRV', intervalMs: 5_000, server: '10.0.0.53:53', allowEmpty: true },
    });
    expect([...files.endpointLists]).toEqual([['Batch.2_b-c', path.join(fixtures, 'endpoints.yaml')]]);
    // Those whose contents were taken in.
    expect(files.read).toEqual([path.join(fixtures, 'secret.txt')]);
  });

  it('issues a cookie unlike the default one in every field', () => {
    const defaults = usable(`${minimal}\naffinity: { secret: of-our-own, cookie: {} }`).settings.affinity.cookie!;
    expect(defaults).toEqual({ name: 'fairlead-session', maxAgeS: 86_400, path: '/', secure: true, sameSite: 'lax' });
    for (const [field, value] of Object.entries(defaults)) expect({ ...settings.affinity.cookie }).not.toMatchObject({ [field]: value });
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
          { address: '10.0.0.1:8000#0', weight: 2.5, labels: { gpu: 'h100', zone: '' }, requestsMax: 64 },
          { address: '10.0.0.1:8000#1', weight: 2.5, labels: { gpu: 'h100', zone: '' }, requestsMax: 64 },
          { address: '[2001:db8::1]:65535#0', weight: 1, labels: {}, requestsMax: undefined },
          { address: '[2001:db8::1]:65535#1', weight: 1, labels: {}, requestsMax: undefined },
        ],
      },
      {
        name: 'Batch.2_b-c',
        endpoints: [
          { address: '10.0.0.1:8000', weight: 1, labels: { region: 'eu' }, requestsMax: undefined },
          { address: '10.0.0.2:8000', weight: 1, labels: { region: 'eu' }, requestsMax: undefined, standby: true },
        ],
      },
    ]);
  });

  it('becomes routes', () => {
    const [chosen, embeddings, tiers, rest] = table.routes;
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
    expect(embeddings).toMatchObject({ matchesModel: undefined, needs: new Set(['promptTokens']) });
    expect(tiers).toMatchObject({ name: 'tiers', promptTokens: { min: 1, max: 2000 }, maxTokens: { min: 0, max: 64 }, shift: { from: 'chat', durationMs: 5_400_000 } });
    expect(tiers?.fallback?.map(({ pool }) => pool.name)).toEqual(['Batch.2_b-c', 'chat']);
    expect(tiers?.matchesTenant?.('acme-1')).toBe(true);
    expect(rest).toMatchObject({ matchesModel: undefined, matchesPath: undefined });
    expect(rest?.targets[0]?.pool).toMatchObject({ cluster: 'outbound|8000||chat.models.svc.cluster.local', observeFirstToken: true });
  });

  it('becomes policies, with names for traces, weights, and parameters in effect', () => {
    const [chat, batch] = table.routes[0]!.targets.map(({ pool }) => pool.policy);
    expect(chat).toMatchObject({ name: 'session-affinity', picker: { name: 'session-affinity' } });
    // Limits have a part that is only a preference. What is written beside a preset comes after its own.
    const standing = [
      { name: 'ready', soft: false },
      { name: 'ready', soft: true },
      { name: 'within-limits', soft: false },
      { name: 'within-limits', soft: true },
    ];
    expect(chat?.filters.slice(0, 5)).toMatchObject([...standing, { name: 'slow-start', soft: true }]);
    expect(batch?.filters.slice(0, 4)).toMatchObject(standing);
    expect(batch).toMatchObject({
      name: 'pipeline',
      scorers: [
        { name: 'least-requests', weight: 0.5 },
        { name: 'least-requests', weight: 1 },
      ],
      picker: { name: 'highest-score' },
      needs: new Set(['promptTokens']),
    });
  });

  describe('unknown fields', () => {
    // Free by their nature: any name is known there.
    const isFree = (at: string): boolean => /\.(labels|parameters|headers|tenants)$/.test(at);

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

describe('facts that policies need', () => {
  const needsOf = (pool: string): string[] => [...usable(`pools: [{ name: a, ${pool} }]`).table.needs].sort();
  const endpoints = (...limits: (number | undefined)[]): string =>
    `endpoints: [${limits.map((contextTokens, i) => `{ address: '10.0.0.${i + 1}:80'${contextTokens === undefined ? '' : `, limits: { contextTokens: ${contextTokens} }`} }`).join(', ')}]`;

  it('are the length of the prompt where context lengths are configured, and that of the answer where they differ', () => {
    const policy = 'policy: { preset: round-robin }';
    expect(needsOf(`${policy}, ${endpoints(undefined, undefined)}`)).toEqual([]);
    expect(needsOf(`${policy}, ${endpoints(8_000, 8_000)}`)).toEqual(['promptTokens']);
    expect(needsOf(`${policy}, ${endpoints(8_000, 32_000)}`)).toEqual(['maxTokens', 'promptTokens']);
    expect(needsOf(`${policy}, ${endpoints(8_000, undefined)}`)).toEqual(['maxTokens', 'promptTokens']);
    expect(needsOf(`policy: { filters: [ready], picker: round-robin }, ${endpoints(8_000, 32_000)}`)).toEqual([]);
  });

  it('are headers that filters look at', () => {
    const policy = '{ preset: random, filters: [{ type: labels, parameters: { requireHeader: { shard: x-shard, version: x-version } } }] }';
    expect([...usable(`pools: [{ name: a, policy: ${policy}, ${endpoints(undefined)} }]`).table.headers!].sort()).toEqual(['x-shard', 'x-version']);
    expect([...usable(minimal).table.headers!]).toEqual([]);
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
    const outcome = loadConfigFile(at);
    expect(outcome).toEqual({ ok: false, problems, ...(!outcome.ok && outcome.read && { read: outcome.read }) });
  });

  it('broken: says which files it names, where reading got so far', () => {
    const at = path.join(fixtures, 'bad');
    const broken = loadConfig(`${minimal}\naffinity: { secretFile: none }\nexplain: { header: true, tokenFile: nothing }`, at);
    expect(broken).toMatchObject({ ok: false, read: [path.join(at, 'none'), path.join(at, 'nothing')] });
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

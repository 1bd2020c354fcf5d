import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { loadConfigFile } from '../config/load.ts';
import type { CompiledConfig } from '../config/load-outcome.ts';
import type { ConfigReload } from '../router/reload-events.ts';
import { ConfigReloader } from './config-reloader.ts';
import { versionOf } from './config-version.ts';

const pools = 'pools: [{ name: chat, endpoints: [{ address: 10.0.0.1:80 }] }]';
const cleanUps: (() => void)[] = [];
afterEach(() => {
  for (const cleanUp of cleanUps.splice(0)) cleanUp();
});

interface Trial {
  readonly reloader: ConfigReloader;
  readonly write: (text: string, name?: string) => void;
  readonly applied: CompiledConfig[];
  readonly told: ConfigReload[];
  readonly first: CompiledConfig;
}

function load(file: string): CompiledConfig {
  const outcome = loadConfigFile(file);
  if (!outcome.ok) throw new Error(JSON.stringify(outcome.problems));
  return outcome.config;
}

function create(text: string, files: Readonly<Record<string, string>> = {}, apply?: (config: CompiledConfig) => void): Trial {
  const folder = mkdtempSync(path.join(tmpdir(), 'config-reloader-'));
  cleanUps.push(() => rmSync(folder, { recursive: true, force: true }));
  const write = (written: string, name = 'fairlead.yaml'): void => writeFileSync(path.join(folder, name), written);
  for (const [name, content] of Object.entries(files)) write(content, name);
  write(text);
  const file = path.join(folder, 'fairlead.yaml');
  const first = load(file);
  const applied: CompiledConfig[] = [];
  const told: ConfigReload[] = [];
  let wallMs = 1_000;
  const reloader = new ConfigReloader({
    file,
    running: first,
    warnings: [],
    load: loadConfigFile,
    apply: apply ?? ((config) => applied.push(config)),
    events: { configReloaded: (reload) => told.push(reload) },
    wallMs: () => (wallMs += 1),
    settleMs: 20,
    pollMs: 50,
  });
  cleanUps.push(() => reloader.stop());
  return { reloader, write, applied, told, first };
}

describe('a reload', () => {
  it('puts what can be used into force, and says so', () => {
    const { reloader, write, applied, told, first } = create(pools);
    write(`${pools}\nlog: { level: debug }`);
    expect(reloader.reload('signal')).toMatchObject({ outcome: 'applied', cause: 'signal', problems: [] });
    expect(applied.map(({ settings }) => settings.log.level)).toEqual(['debug']);
    expect(told).toHaveLength(1);
    expect(reloader.status).toMatchObject({ version: versionOf(applied[0]!), loadedAtMs: 1_002, lastReload: { outcome: 'applied', atMs: 1_002 } });
    expect(reloader.status.version).not.toBe(versionOf(first));
  });

  it('keeps the secret that was made up: sessions go by it', () => {
    const { reloader, write, applied, first } = create(pools);
    write(`${pools}\nlog: { level: debug }`);
    reloader.reload('api');
    expect(applied[0]!.affinitySecret).toBe(first.affinitySecret);
  });

  it('changes nothing where nothing changed, as when only the decision log was to be reopened', () => {
    const { reloader, write, applied } = create(pools);
    write(`# a comment\n${pools}`);
    expect(reloader.reload('signal').outcome).toBe('unchanged');
    expect(applied).toEqual([]);
    expect(reloader.status.loadedAtMs).toBe(1_001);
  });

  it('takes up another secret in a file', () => {
    const text = `${pools}\nexplain: { header: true, tokenFile: token }`;
    const { reloader, write, applied } = create(text, { token: 'sixteen-characters' });
    write('other-sixteen-characters', 'token');
    expect(reloader.reload('signal').outcome).toBe('applied');
    expect(applied[0]!.files.explainToken).toBe('other-sixteen-characters');
  });

  it.each([
    ['pools: [', ''],
    ['pools: []', 'pools'],
    [`${pools}\nsurprise: 1`, 'surprise'],
    [`${pools}\nlisten: { grpc: 127.0.0.1:1 }`, 'listen.grpc'],
    [`${pools}\naffinity: { secret: now there is one }`, 'affinity.secret'],
    [`${pools}\nlimits: { messageBytesMax: 1 }`, 'limits.messageBytesMax'],
    [`${pools}\nlimits: { scanBytesMax: 1, messageBytesMax: 1 }`, 'limits.messageBytesMax'],
    [`${pools}\ndecisionLog: { sample: 1 }`, 'decisionLog.sample'],
    [`${pools}\nstate: { kind: redis, keyPrefix: p }\naffinity: { secret: s }`, 'state.kind'],
  ])('refuses %j, names the path, and keeps what is in force', (text, at) => {
    const { reloader, write, applied, first } = create(pools);
    write(text);
    const reload = reloader.reload('file');
    expect(reload.outcome).toBe('refused');
    expect(reload.problems.map(({ path: where }) => where)).toContain(at);
    expect(applied).toEqual([]);
    expect(reloader.status).toMatchObject({ version: versionOf(first), loadedAtMs: 1_001, lastReload: { outcome: 'refused' } });
    // Put right again, it is what it was.
    write(pools);
    expect(reloader.reload('file').outcome).toBe('unchanged');
  });

  it('says of a setting that is frozen what to do, and takes the secret for the same wherever it is written', () => {
    const { reloader, write } = create(`${pools}\naffinity: { secret: the same }`, { secret: 'the same' });
    write(`${pools}\naffinity: { secretFile: secret }`);
    expect(reloader.reload('api')).toMatchObject({ outcome: 'applied' });
    write('another', 'secret');
    expect(reloader.reload('api').problems).toEqual([{ path: 'affinity.secretFile', message: 'cannot change while the router runs: restart it to have this, or change it back' }]);
  });

  it('refuses what cannot be put into force for a bug, and goes on', () => {
    const { reloader, write } = create(pools, {}, () => {
      throw new Error('of the moon');
    });
    write(`${pools}\nlog: { level: debug }`);
    expect(reloader.reload('api')).toMatchObject({ outcome: 'refused', problems: [{ path: '', message: expect.stringContaining('of the moon') as string }] });
  });
});

describe('the files', () => {
  /** What changes in the moment in which watching begins may be seen twice; it is applied once. */
  const applied = (trial: Trial, count: number): Promise<void> => expect.poll(() => trial.applied.length, { timeout: 5_000 }).toBe(count);

  it('are watched, those that the configuration names too, and those that it names now', async () => {
    const trial = create(`${pools}\nexplain: { header: true, tokenFile: token }`, { token: 'sixteen-characters', later: 'later-sixteen-characters' });
    trial.reloader.start();
    trial.write('other-sixteen-characters', 'token');
    await applied(trial, 1);
    trial.write(`${pools}\nexplain: { header: true, tokenFile: later }`);
    await applied(trial, 2);
    trial.write('other-later-sixteen-characters', 'later');
    await applied(trial, 3);
    for (const { outcome, cause } of trial.told) expect([outcome === 'refused', cause]).toEqual([false, 'file']);
    // Read no more, and watched no more.
    await new Promise((resolve) => setTimeout(resolve, 300));
    const before = trial.told.length;
    trial.write('yet-other-sixteen-characters', 'token');
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(trial.told).toHaveLength(before);
  });

  it('are watched also where the configuration that names them was refused: one may come after it', async () => {
    const trial = create(pools);
    trial.reloader.start();
    trial.write(`${pools}\nexplain: { header: true, tokenFile: token }`);
    await expect.poll(() => trial.told.at(-1)?.outcome, { timeout: 5_000 }).toBe('refused');
    trial.write('sixteen-characters', 'token');
    await applied(trial, 1);
  });

  it('are taken up also where they changed before they were watched, and only then', async () => {
    const changed = create(pools);
    changed.write(`${pools}\nlog: { level: debug }`);
    changed.reloader.start();
    await applied(changed, 1);
    expect(changed.told[0]).toMatchObject({ outcome: 'applied', cause: 'file' });
    const same = create(pools);
    same.reloader.start();
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(same.told).toEqual([]);
  });

  it('are left alone where the configuration says so', async () => {
    const trial = create(`${pools}\nreload: { watch: false }`);
    trial.reloader.start();
    trial.write(`${pools}\nreload: { watch: false }\nlog: { level: debug }`);
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(trial.told).toEqual([]);
    trial.write(pools);
    trial.reloader.reload('signal');
    trial.write(`${pools}\nlog: { level: debug }`);
    await applied(trial, 2);
  });
});

it('versions are the same for the same settings, however they are written, and tell nothing of secrets', () => {
  const of = (text: string): string => versionOf(create(text).first);
  expect(of(`# one\n${pools}`)).toBe(of(`${pools}\nlog: { level: info }`));
  expect(of(pools)).not.toBe(of(pools.replace('chat', 'batch')));
  expect(of(`${pools}\naffinity: { secret: a }`)).toBe(of(`${pools}\naffinity: { secret: b }`));
  expect(of(pools)).toMatch(/^[0-9a-f]{12}$/);
});

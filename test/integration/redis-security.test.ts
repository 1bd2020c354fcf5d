import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { projectRoot } from '../../lab/child-process.ts';
import { freePorts } from '../../lab/envoy-process.ts';
import { type RedisProcess, redisSpeaksTls, startRedis } from '../../lab/redis-process.ts';
import type { RedisSettings } from '../../src/redis/settings.ts';
import { chatPool, createRouterUnderTest, redisSettings, until } from './router-under-test.ts';

const config = chatPool(2);
let started = 0;

/** What a start comes to: why it was refused, or nothing, after which the router has to hear itself. */
async function start(settings: RedisSettings): Promise<string | undefined> {
  started += 1;
  const router = createRouterUnderTest({ id: `r${started}`, config, settings });
  try {
    await router.exchange.start();
    await until(() => router.exchange.status().connected, 1_000, () => [router.exchange.trouble(), router.troubles]);
    await until(() => router.exchange.trouble() === undefined, 500, () => router.troubles);
    return undefined;
  } catch (error) {
    return (error as Error).message;
  } finally {
    await router.stop();
  }
}

/** The least ACL rule, as the documentation shows it. */
async function documentedRule(): Promise<string[]> {
  const text = await readFile(path.join(projectRoot, 'docs/redis.md'), 'utf8');
  const rule = /^ACL SETUSER fairlead ((?:.*\\\n)*.*)$/m.exec(text)?.[1];
  if (rule === undefined) throw new Error('docs/redis.md shows no ACL rule');
  return rule.replaceAll('\\\n', ' ').split(/\s+/);
}

describe('users', () => {
  let redis: RedisProcess;
  let admin: Redis;
  let rule: string[];
  beforeAll(async () => {
    redis = await startRedis(['--requirepass', 'admin']);
    admin = new Redis({ port: redis.port, host: '127.0.0.1', password: 'admin' });
    rule = await documentedRule();
    await admin.call('ACL', 'SETUSER', 'fairlead', 'reset', ...rule);
  });
  afterAll(async () => {
    admin.disconnect();
    await redis.stop();
  });
  const password = (): string => rule.find((word) => word.startsWith('>'))!.slice(1);
  const as = (username: string | undefined, secret: string | undefined): RedisSettings => redisSettings(redis.url, { username, password: secret });

  it('the documented rule is enough, for places on capped endpoints too', async () => {
    expect(await start(as('fairlead', password()))).toBeUndefined();
    expect(await start(redisSettings(`redis://fairlead:${encodeURIComponent(password())}@127.0.0.1:${redis.port}`))).toBeUndefined();
    const router = createRouterUnderTest({ id: 'capped', config, settings: as('fairlead', password()) });
    await router.exchange.start();
    const caps = router.exchange.caps!;
    expect(await caps.acquire('chat', 'capped.1', [{ address: '10.0.0.1:80', requestsMax: 1 }])).toEqual({ taken: '10.0.0.1:80' });
    caps.release('chat', '10.0.0.1:80', 'capped.1');
    router.exchange.publish({ kind: 'dispatch', pool: 'chat', address: '10.0.0.1:80', promptTokens: 1, uncachedTokens: 1, placement: { keyId: 'f'.repeat(32), away: true }, cached: undefined });
    await until(async () => (await admin.exists('fairlead:{chat}:placements')) === 1, 1_000);
    expect(await caps.acquire('chat', 'capped.2', [{ address: '10.0.0.1:80', requestsMax: 1 }])).toEqual({ taken: '10.0.0.1:80' });
    await new Promise((resolve) => setTimeout(resolve, 1_200));
    expect(router.troubles).toEqual([]);
    await router.stop();
  });

  it('a wrong password, a wrong user and no user are refused, and the message says so without the password', async () => {
    for (const settings of [as('fairlead', 'geheim'), as('nobody', password()), as(undefined, 'geheim'), as(undefined, undefined)]) {
      const refusal = await start(settings);
      expect(refusal).toMatch(/^Redis at 127\.0\.0\.1:\d+: it refused user or password \((WRONGPASS|NOAUTH).*Check state\.url, state\.username and state\.password\.$/);
      expect(refusal).not.toContain('geheim');
      expect(refusal).not.toContain(password());
    }
  });

  it('each permission that is missing is refused by its name: the documented rule holds nothing that is not needed', { timeout: 60_000 }, async () => {
    const given = rule.filter((word) => word.startsWith('+'));
    expect(given.length).toBeGreaterThan(15);
    // The name of the connection, which only people read.
    const optional = ['+client|setname'];
    for (const permission of given.filter((word) => !optional.includes(word))) {
      await admin.call('ACL', 'SETUSER', 'poor', 'reset', ...rule, `-${permission.slice(1)}`);
      // A script that is there already would need no EVAL.
      await admin.call('SCRIPT', 'FLUSH');
      const refusal = await start(as('poor', password()));
      expect(refusal, permission).toMatch(/the ACL user may not do what Fairlead needs .* docs\/redis\.md lists it\.$/);
      expect(refusal?.toLowerCase(), permission).toContain(permission.slice(1));
    }
  });

  it('keys and channels of others are refused', async () => {
    await admin.call('ACL', 'SETUSER', 'poor', 'reset', ...rule, 'resetkeys', '~other:*');
    expect(await start(as('poor', password()))).toMatch(/the ACL user may not do .* keys?/i);
    await admin.call('ACL', 'SETUSER', 'poor', 'reset', ...rule, 'resetchannels', '&other:*');
    expect(await start(as('poor', password()))).toMatch(/the ACL user may not do .* channels?/i);
  });

  it('a key prefix of its own needs a rule of its own', async () => {
    await admin.call('ACL', 'SETUSER', 'other', 'reset', ...rule, 'resetkeys', 'resetchannels', '~blue:*', '&blue:*');
    expect(await start(redisSettings(redis.url, { username: 'other', password: password(), keyPrefix: 'blue' }))).toBeUndefined();
    expect(await start(redisSettings(redis.url, { username: 'fairlead', password: password(), keyPrefix: 'blue' }))).toMatch(/the ACL user may not/);
  });
});

const tls = await redisSpeaksTls();

describe('plain text where TLS is not', () => {
  it('TLS to a plaintext port is refused, however the port takes it', async () => {
    const redis = await startRedis();
    expect(await start(redisSettings(redis.url.replace('redis:', 'rediss:')))).toMatch(/the port does not speak TLS\. Use redis:/);
    await redis.stop();
  });
});

describe.skipIf(!tls)(tls ? 'TLS' : 'TLS (skipped: the server at hand was built without it)', () => {
  let folder: string;
  let redis: RedisProcess;
  let mutual: RedisProcess;
  const openssl = (...args: string[]): Promise<unknown> => promisify(execFile)('openssl', args, { cwd: folder });
  const pem = (name: string): Promise<string> => readFile(path.join(folder, name), 'utf8');
  const ecKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];

  beforeAll(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'fairlead-tls-'));
    for (const name of ['ours', 'other']) await openssl('req', '-x509', ...ecKey, '-keyout', `${name}.key`, '-out', `${name}.crt`, '-days', '2', '-subj', `/CN=${name}`);
    for (const name of ['server', 'client']) {
      await openssl('req', ...ecKey, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', `/CN=${name}`, '-addext', 'subjectAltName=IP:127.0.0.1,DNS:redis.example');
      await openssl('x509', '-req', '-in', `${name}.csr`, '-CA', 'ours.crt', '-CAkey', 'ours.key', '-CAcreateserial', '-out', `${name}.crt`, '-days', '2', '-copy_extensions', 'copy');
    }
    const [port = 0, mutualPort = 0] = await freePorts(2);
    const settings = (of: number, clients: string): string[] => [
      ...['--port', '0', '--tls-port', String(of), '--tls-auth-clients', clients],
      ...['--tls-cert-file', `${folder}/server.crt`, '--tls-key-file', `${folder}/server.key`, '--tls-ca-cert-file', `${folder}/ours.crt`],
    ];
    redis = await startRedis(settings(port, 'no'));
    mutual = await startRedis(settings(mutualPort, 'yes'));
  });
  afterAll(async () => {
    await redis.stop();
    await mutual.stop();
    await rm(folder, { recursive: true, force: true });
  });
  const over = (server: RedisProcess, changes: Partial<NonNullable<RedisSettings['tls']>>): RedisSettings =>
    redisSettings(server.url.replace('redis:', 'rediss:'), { tls: { ca: undefined, cert: undefined, key: undefined, serverName: undefined, ...changes } });

  it('with the right CA connects, by address and by name', async () => {
    expect(await start(over(redis, { ca: await pem('ours.crt') }))).toBeUndefined();
    expect(await start(over(redis, { ca: await pem('ours.crt'), serverName: 'redis.example' }))).toBeUndefined();
  });

  it('with the wrong CA, none or another name is refused, and the message names the cause', async () => {
    expect(await start(over(redis, { ca: await pem('other.crt') }))).toMatch(/TLS failed: .*certificate.*Check state\.tls\.caFile/);
    expect(await start(over(redis, {}))).toMatch(/TLS failed: .*certificate.*Check state\.tls\.caFile/);
    expect(await start(over(redis, { ca: await pem('ours.crt'), serverName: 'other.example' }))).toMatch(/TLS failed: .*other\.example.*serverName/);
  });

  it('with certificates on both sides takes ours, and refuses none and one of another CA', async () => {
    const ca = await pem('ours.crt');
    expect(await start(over(mutual, { ca, cert: await pem('client.crt'), key: await pem('client.key') }))).toBeUndefined();
    expect(await start(over(mutual, { ca }))).toMatch(/it wants a certificate of the client\. Set state\.tls\.certFile and keyFile\./);
    expect(await start(over(mutual, { ca, cert: await pem('other.crt'), key: await pem('other.key') }))).toMatch(/TLS failed: .*certFile/);
  });

  it('plain text to a TLS port is refused', async () => {
    expect(await start(redisSettings(redis.url))).toMatch(/the port expects TLS\. Use rediss:/);
    expect(await start(redisSettings(mutual.url))).toMatch(/the port expects TLS\. Use rediss:/);
  });
});

import { request } from 'node:http';
import { connect, createServer } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import type { AutoscaleReport } from './autoscale-report.ts';
import type { ChangeReport } from './change-report.ts';
import type { ConfigReport } from './config-report.ts';
import type { FleetReport } from './fleet-report.ts';
import { type AdminOptions, type AdminServer, type ReadinessPart, startAdmin } from './server.ts';

const report: FleetReport = { router: { id: 'a', state: 'serving', uptimeS: 3 }, sharing: { kind: 'memory', connected: true, pushing: false, snapshotAgeMs: null, trouble: null }, routers: [], pools: [], routes: [] };
const config: ConfigReport = { file: 'fairlead.yaml', version: 'abc', loadedAt: '2026-01-01T00:00:00.000Z', warnings: [], lastReload: null, discoveries: [] };
let started: AdminServer[] = [];

afterEach(async () => {
  await Promise.all(started.map((server) => server.close()));
  started = [];
});

async function start(options: Partial<AdminOptions> = {}): Promise<AdminServer> {
  const server = await startAdmin({
    address: '127.0.0.1:0',
    readiness: () => [{ name: 'grpc', ready: true }],
    registry: { contentType: 'text/plain; version=0.0.4; charset=utf-8', metrics: async () => 'fairlead_streams_open 3\n' },
    fleet: () => report,
    decisions: () => [],
    changes: () => [],
    autoscale: () => [],
    config: () => config,
    ...options,
  });
  started.push(server);
  return server;
}

async function get(server: AdminServer, path: string, method = 'GET'): Promise<{ status: number; headers: Headers; text: string; json: () => unknown }> {
  const response = await fetch(`http://${server.address}${path}`, { method });
  const text = await response.text();
  return { status: response.status, headers: response.headers, text, json: () => JSON.parse(text) as unknown };
}

describe('a change whose length is not declared', () => {
  const asked: [string, string, string][] = [];
  const controls = { setEndpointState: (...args: [string, string, string]) => void asked.push(args) } as unknown as NonNullable<AdminOptions['controls']>;
  const send = async (pieces: readonly string[]): Promise<number> => {
    const server = await start({ controls });
    const { request } = await import('node:http');
    return await new Promise<number>((resolve, reject) => {
      const url = `http://${server.address}/api/v1/pools/chat/endpoints/10.0.0.1%3A80/state`;
      const sent = request(url, { method: 'PUT', headers: { 'content-type': 'application/json', 'transfer-encoding': 'chunked' } }, (answer) => {
        answer.resume();
        resolve(answer.statusCode ?? 0);
      });
      sent.on('error', reject);
      for (const piece of pieces) sent.write(piece);
      sent.end();
    });
  };

  it('is taken, whole', async () => {
    expect(await send(['{"state":', '"draining"}'])).toBe(200);
    expect(asked).toEqual([['chat', '10.0.0.1:80', 'draining']]);
  });

  it('is refused as soon as it is larger than any change', async () => {
    expect(await send(['{"state":"', 'x'.repeat(70_000), '"}'])).toBe(413);
  });
});

describe('startAdmin', () => {
  it('tells where it listens', async () => {
    const server = await start();
    expect(server.port).toBeGreaterThan(0);
    expect(server.address).toBe(`127.0.0.1:${server.port}`);
  });

  it('tells which configuration is in force', async () => {
    expect((await get(await start(), '/api/v1/config')).json()).toEqual(config);
  });

  it('lists what there is', async () => {
    const { status, json } = await get(await start(), '/');
    expect(status).toBe(200);
    const { pages } = json() as { pages: Record<string, string> };
    expect(Object.keys(pages)).toEqual(['/healthz', '/readyz', '/metrics', '/api/v1/autoscale', '/api/v1/changes', '/api/v1/config', '/api/v1/decisions', '/api/v1/fleet']);
  });

  it('every page that it lists is there', async () => {
    const server = await start();
    const { pages } = (await get(server, '/')).json() as { pages: Record<string, string> };
    for (const path of Object.keys(pages)) expect([path, (await get(server, path)).status]).toEqual([path, 200]);
  });

  it('gives as many decisions as asked for, 20 by default, and never more than are kept', async () => {
    const asked: number[] = [];
    const server = await start({
      decisions: (limit) => {
        asked.push(limit);
        return [];
      },
    });
    for (const query of ['', '?limit=1', '?limit=256']) expect((await get(server, `/api/v1/decisions${query}`)).json()).toEqual({ decisions: [] });
    for (const query of ['?limit=0', '?limit=257', '?limit=-1', '?limit=1.5', '?limit=', '?limit=all']) {
      expect(await get(server, `/api/v1/decisions${query}`)).toMatchObject({ status: 400, text: expect.stringContaining('bad_limit') as string });
    }
    expect(asked).toEqual([20, 1, 256]);
  });

  it('gives the changes of endpoints', async () => {
    const change: ChangeReport = { time: '2026-01-31T22:00:00.000Z', ageMs: 5, atMs: 7, pool: 'chat', address: 'a', from: 'ready', to: 'ejected', cause: 'failures', detail: null, by: null };
    expect((await get(await start({ changes: () => [change] }), '/api/v1/changes')).json()).toEqual({ changes: [change] });
  });

  it('gives the advice of all pools, and of one as an autoscaler reads it', async () => {
    const reports = ['chat', 'batch'].map((pool, i) => ({ pool, desiredReplicas: i + 2 }) as AutoscaleReport);
    const server = await start({ autoscale: () => reports });
    expect((await get(server, '/api/v1/autoscale')).json()).toEqual({ pools: reports });
    expect((await get(server, '/api/v1/autoscale/batch')).json()).toEqual({ pool: 'batch', desiredReplicas: 3 });
    expect(await get(server, '/api/v1/autoscale/none')).toMatchObject({ status: 404, text: expect.stringContaining('not_found') as string });
  });

  it('is healthy while it lives, ready or not', async () => {
    const { status, text } = await get(await start({ readiness: () => [{ name: 'grpc', ready: false, reason: 'draining' }] }), '/healthz');
    expect([status, text]).toEqual([200, 'ok\n']);
  });

  it('is ready when all parts are, and says why when one is not', async () => {
    const parts: ReadinessPart[] = [
      { name: 'grpc', ready: true },
      { name: 'pool:chat', ready: true, reason: '2 of 2 endpoints ready' },
    ];
    const server = await start({ readiness: () => parts });
    let answer = await get(server, '/readyz');
    expect(answer.status).toBe(200);
    expect(answer.json()).toEqual({ ready: true, parts });
    parts[1] = { name: 'pool:chat', ready: false, reason: '0 of 2 endpoints ready' };
    answer = await get(server, '/readyz');
    expect(answer.status).toBe(503);
    expect(answer.json()).toEqual({ ready: false, parts });
  });

  it('serves metrics under their own content type', async () => {
    const { status, headers, text } = await get(await start(), '/metrics');
    expect([status, text]).toEqual([200, 'fairlead_streams_open 3\n']);
    expect(headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8');
  });

  it('serves the fleet as it is at the time of the call', async () => {
    let uptimeS = 1;
    const server = await start({ fleet: () => ({ ...report, router: { ...report.router, uptimeS } }) });
    expect((await get(server, '/api/v1/fleet')).json()).toMatchObject({ router: { uptimeS: 1 } });
    uptimeS = 2;
    const { headers, json } = await get(server, '/api/v1/fleet');
    expect(json()).toMatchObject({ router: { uptimeS: 2 } });
    expect(headers.get('content-type')).toMatch(/^application\/json/);
    expect(headers.get('cache-control')).toBe('no-store');
  });

  it.each(['/', '/healthz', '/readyz', '/metrics', '/api/v1/fleet'])('HEAD %s: as GET, without the body', async (path) => {
    const server = await start();
    const head = await get(server, path, 'HEAD');
    const full = await get(server, path);
    expect(head.status).toBe(full.status);
    expect(head.headers.get('content-type')).toBe(full.headers.get('content-type'));
    expect(head.text).toBe('');
  });

  it.each(['POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])('refuses %s', async (method) => {
    const { status, headers, json } = await get(await start(), '/api/v1/fleet', method);
    expect(status).toBe(405);
    expect(headers.get('allow')).toBe('GET, HEAD');
    expect(headers.get('access-control-allow-origin')).toBeNull();
    expect(json()).toMatchObject({ error: { code: 'method_not_allowed' } });
  });

  it.each(['/nothing', '/api/v1/fleet/', '/api/v2/fleet', '/%2e%2e/etc/passwd', '/healthz/x'])('answers %s with 404 in JSON', async (path) => {
    const { status, headers, json } = await get(await start(), path);
    expect(status).toBe(404);
    expect(headers.get('content-type')).toMatch(/^application\/json/);
    expect(json()).toMatchObject({ error: { code: 'not_found' } });
  });

  it('shares nothing with other origins', async () => {
    const server = await start();
    const response = await fetch(`http://${server.address}/api/v1/fleet`, { headers: { origin: 'http://evil.example' } });
    expect(response.headers.get('access-control-allow-origin')).toBeNull();
    await response.text();
  });

  it.each([
    ['/metrics', { registry: { contentType: 'text/plain', metrics: () => Promise.reject(new Error('broken')) } }],
    ['/api/v1/fleet', { fleet: () => { throw new Error('broken'); } }],
    ['/readyz', { readiness: () => { throw new Error('broken'); } }],
  ])('tells the log, not the caller, what %s threw, and lives on', async (path, options) => {
    const errors: unknown[] = [];
    const server = await start({ ...options, onError: (error) => errors.push(error) });
    const { status, text } = await get(server, path);
    expect(status).toBe(500);
    expect(text).not.toContain('broken');
    expect(errors).toEqual([new Error('broken')]);
    expect((await get(server, '/healthz')).status).toBe(200);
  });

  it('refuses a port that is taken, naming it and the cure', async () => {
    const holder = createServer();
    await new Promise<void>((resolve) => holder.listen(0, '127.0.0.1', resolve));
    const { port } = holder.address() as { port: number };
    await expect(start({ address: `127.0.0.1:${port}` })).rejects.toThrow(
      `cannot listen on 127.0.0.1:${port} (listen.admin): the port is taken. Stop what holds it, or choose another port.`,
    );
    await new Promise((resolve) => holder.close(resolve));
  });

  it('refuses an address that this machine has not', async () => {
    await expect(start({ address: '192.0.2.1:0' })).rejects.toThrow(/^cannot listen on 192\.0\.2\.1:0 \(listen\.admin\): this machine has no such address/);
  });

  it('listens on IPv6, written in brackets, where there is IPv6', async (context) => {
    const server = await start({ address: '[::1]:0' }).catch(() => context.skip('no IPv6 loopback here'));
    expect(server.address).toBe(`[::1]:${server.port}`);
    expect((await get(server, '/healthz')).status).toBe(200);
  });

  it('closes while a client holds a connection open, and frees the port', async () => {
    const server = await start();
    const idle = connect(server.port, '127.0.0.1');
    idle.on('error', () => {});
    const dropped = new Promise((resolve) => idle.once('close', resolve));
    await new Promise((resolve) => idle.once('connect', resolve));
    await Promise.all([server.close(), server.close()]);
    await dropped;
    const again = await start({ address: server.address });
    expect((await get(again, '/healthz')).status).toBe(200);
  });

  it('lets a call under way finish when it closes', async () => {
    let finish: ((text: string) => void) | undefined;
    const called = Promise.withResolvers<undefined>();
    const server = await start({
      registry: {
        contentType: 'text/plain',
        metrics: () =>
          new Promise<string>((resolve) => {
            finish = resolve;
            called.resolve(undefined);
          }),
      },
    });
    const answer = new Promise<number | undefined>((resolve, reject) => {
      request({ host: '127.0.0.1', port: server.port, path: '/metrics' }, (response) => {
        response.resume().on('end', () => resolve(response.statusCode));
      })
        .on('error', reject)
        .end();
    });
    await called.promise;
    const closed = server.close();
    finish?.('late\n');
    expect(await answer).toBe(200);
    await closed;
  });
});

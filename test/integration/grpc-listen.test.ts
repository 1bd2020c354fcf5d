// Where and how the gRPC server listens: Unix sockets, TLS, client certificates, and certificates that change. With a grpc-js client.
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cp, mkdtemp, rename, rm, stat, writeFile } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import tls from 'node:tls';
import { promisify } from 'node:util';
import { type ChannelCredentials, Client, credentials, type MethodDefinition, status } from '@grpc/grpc-js';
import { service as healthService } from 'grpc-health-check';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type GrpcServer, type GrpcServerOptions, startGrpcServer } from '../../src/extproc/grpc-server.ts';
import { TlsFiles, type TlsReload } from '../../src/extproc/tls-files.ts';
import { createTrial } from '../stream-under-test.ts';

let folder: string;
const file = (name: string): string => path.join(folder, name);
const pem = (name: string): Buffer => readFileSync(file(name));

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'fairlead-listen-'));
  const openssl = (...args: string[]): Promise<unknown> => promisify(execFile)('openssl', args, { cwd: folder });
  const ecKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  for (const name of ['ours', 'other']) await openssl('req', '-x509', ...ecKey, '-keyout', `${name}.key`, '-out', `${name}.crt`, '-days', '2', '-subj', `/CN=${name}`);
  const sign = async (name: string, ca: string): Promise<void> => {
    await openssl('req', ...ecKey, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', `/CN=${name}`, '-addext', 'subjectAltName=IP:127.0.0.1,DNS:localhost');
    await openssl('x509', '-req', '-in', `${name}.csr`, '-CA', `${ca}.crt`, '-CAkey', `${ca}.key`, '-CAcreateserial', '-out', `${name}.crt`, '-days', '2', '-copy_extensions', 'copy');
  };
  await sign('server', 'ours');
  await sign('renewed', 'ours');
  await sign('client', 'ours');
  await sign('stranger', 'other');
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const opened: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of opened.splice(0).reverse()) await close();
});

const { Check } = healthService as unknown as Record<'Check', MethodDefinition<{ service: string }, { status: string }>>;

/** SERVING, or the code of the error. */
function check(target: string, channel: ChannelCredentials): Promise<string> {
  const client = new Client(target, channel, { 'grpc.enable_retries': 0 });
  return new Promise((resolve) => {
    const options = { deadline: Date.now() + 15_000 };
    client.makeUnaryRequest(Check.path, Check.requestSerialize, Check.responseDeserialize, { service: 'liveness' }, options, (error, answer) => {
      client.close();
      resolve(error === null ? (answer?.status ?? '') : String(error.code));
    });
  });
}

async function until(condition: () => Promise<boolean> | boolean): Promise<void> {
  for (let tries = 0; !(await condition()); tries += 1) {
    if (tries > 300) throw new Error(`waited in vain for ${condition.toString()}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

describe.each(['lean', 'http2', 'grpc-js'] as const)('the gRPC server on %s', (transport) => {
  async function serve(options: Partial<GrpcServerOptions>): Promise<GrpcServer> {
    const { context, router } = createTrial();
    const server = await startGrpcServer({ address: '127.0.0.1:0', context: () => context, router, events: context.events, messageBytesMax: 1 << 20, transport, ...options });
    opened.push(() => server.stop(0));
    return server;
  }

  describe('on a Unix socket', () => {
    const socket = (): string => file(`${transport}.sock`);

    it('serves, and lets connect whom it says', async () => {
      const server = await serve({ address: `unix:${socket()}`, socketMode: 0o600 });
      expect(server.port).toBe(0);
      expect(await check(`unix:${socket()}`, credentials.createInsecure())).toBe('SERVING');
      expect((await stat(socket())).mode & 0o777).toBe(0o600);
    });

    it('takes over a socket that a process left behind', async () => {
      // Closing removes the file: one whose name was another by then stays.
      const left = net.createServer();
      await new Promise<void>((resolve) => left.listen(file('left.sock'), resolve));
      await rename(file('left.sock'), socket());
      await new Promise((resolve) => left.close(resolve));
      expect((await stat(socket())).isSocket()).toBe(true);
      await serve({ address: `unix:${socket()}` });
      expect(await check(`unix:${socket()}`, credentials.createInsecure())).toBe('SERVING');
    });

    it('leaves one alone at which somebody answers, and a file that is no socket', async () => {
      await serve({ address: `unix:${socket()}` });
      await expect(serve({ address: `unix:${socket()}` })).rejects.toThrow(`cannot listen on unix:${socket()} (listen.grpc)`);
      expect(await check(`unix:${socket()}`, credentials.createInsecure())).toBe('SERVING');
      await writeFile(file('notes'), 'keep me');
      await expect(serve({ address: `unix:${file('notes')}` })).rejects.toThrow('cannot listen');
      expect(pem('notes').toString()).toBe('keep me');
    });
  });

  describe('with TLS', () => {
    const target = ({ port }: GrpcServer): string => `127.0.0.1:${port}`;

    it('serves those who trust its certificate, and nobody in plain text', async () => {
      const server = await serve({ tls: { certFile: file('server.crt'), keyFile: file('server.key') } });
      expect(await check(target(server), credentials.createSsl(pem('ours.crt')))).toBe('SERVING');
      expect(await check(target(server), credentials.createSsl(pem('other.crt')))).toBe(String(status.UNAVAILABLE));
      expect(await check(target(server), credentials.createInsecure())).toBe(String(status.UNAVAILABLE));
    });

    it('with a client CA serves only those whose certificate it signed', async () => {
      const server = await serve({ tls: { certFile: file('server.crt'), keyFile: file('server.key'), clientCaFile: file('ours.crt') } });
      const as = (name: string): ChannelCredentials => credentials.createSsl(pem('ours.crt'), pem(`${name}.key`), pem(`${name}.crt`));
      expect(await check(target(server), as('client'))).toBe('SERVING');
      expect(await check(target(server), as('stranger'))).toBe(String(status.UNAVAILABLE));
      expect(await check(target(server), credentials.createSsl(pem('ours.crt')))).toBe(String(status.UNAVAILABLE));
    });

    it('shows new connections the certificate that is in the files by now', async () => {
      const [certFile, keyFile] = [file(`${transport}-live.crt`), file(`${transport}-live.key`)];
      const put = async (name: string): Promise<void> => {
        await cp(file(`${name}.crt`), certFile);
        await cp(file(`${name}.key`), keyFile);
      };
      await put('server');
      const reloads: TlsReload[] = [];
      const server = await serve({ tls: { certFile, keyFile, pollMs: 200 }, onTlsReload: (outcome) => reloads.push(outcome) });
      const shown = (): Promise<string> =>
        new Promise((resolve, reject) => {
          const socket = tls.connect({ port: server.port, host: '127.0.0.1', ca: pem('ours.crt'), ALPNProtocols: ['h2'] }, () => {
            const { CN = '' } = socket.getPeerCertificate().subject;
            socket.destroy();
            resolve(String(CN));
          });
          socket.on('error', reject);
        });
      expect(await shown()).toBe('server');
      await put('renewed');
      await until(() => reloads.some(({ ok }) => ok));
      expect(await shown()).toBe('renewed');
      expect(await check(target(server), credentials.createSsl(pem('ours.crt')))).toBe('SERVING');
      // A broken file changes nothing, and is said once.
      await writeFile(certFile, 'nonsense');
      await until(() => reloads.some(({ ok }) => !ok));
      expect(await shown()).toBe('renewed');
    });

    it('does not start on files that cannot be used', async () => {
      await expect(serve({ tls: { certFile: file('server.crt'), keyFile: file('renewed.key') } })).rejects.toThrow('is not the key of the certificate');
      await expect(serve({ tls: { certFile: file('missing.crt'), keyFile: file('server.key') } })).rejects.toThrow('cannot be read');
    });
  });
});

describe('the files of TLS', () => {
  it('are taken when they fit together, told once while they do not, and left out when nothing changed', async () => {
    const [certFile, keyFile] = [file('pair.crt'), file('pair.key')];
    await cp(file('server.crt'), certFile);
    await cp(file('server.key'), keyFile);
    const reloads: TlsReload[] = [];
    const files = await TlsFiles.open({ certFile, keyFile }, (outcome) => reloads.push(outcome));
    opened.push(() => files.close());
    const changes: string[] = [];
    files.watch(({ cert }) => changes.push(cert.equals(pem('renewed.crt')) ? 'renewed' : 'other'));
    await files.reload();
    expect(reloads).toEqual([]);
    // The certificate comes before its key.
    await cp(file('renewed.crt'), certFile);
    await files.reload();
    await files.reload();
    expect(reloads).toMatchObject([{ ok: false }]);
    expect(files.contents.cert).toEqual(pem('server.crt'));
    await cp(file('renewed.key'), keyFile);
    await files.reload();
    await files.reload();
    expect(reloads).toMatchObject([{ ok: false }, { ok: true }]);
    expect(changes).toEqual(['renewed']);
    expect(files.contents.validTo.getTime()).toBeGreaterThan(Date.now());
  });

  it('are refused where a certificate further down the chain is broken: a server that took it would throw', async () => {
    const [certFile, keyFile] = [file('chain.crt'), file('chain.key')];
    await cp(file('server.crt'), certFile);
    await cp(file('server.key'), keyFile);
    const reloads: TlsReload[] = [];
    const files = await TlsFiles.open({ certFile, keyFile }, (outcome) => reloads.push(outcome));
    opened.push(() => files.close());
    await writeFile(certFile, Buffer.concat([pem('server.crt'), Buffer.from('-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n')]));
    await files.reload();
    expect(reloads).toMatchObject([{ ok: false, error: { message: expect.stringContaining(certFile) as string } }]);
    expect(files.contents.cert).toEqual(pem('server.crt'));
  });
});
